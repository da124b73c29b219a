"""The architecture on disk: a strict round trip, absent branches, errors that name what is wrong."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given

from svkit.config.architecture import W2V_BERT_2, EncoderArchitecture, ModelArchitecture, tiny_architecture
from svkit.config.schema import HeadConfig
from svkit.config.typed import Misfit, fit_json
from svkit.errors import ArtifactError
from tests.random_models import architectures

TINY = tiny_architecture({})
MODEL = ModelArchitecture(encoder=TINY, head=HeadConfig())
CUT = ModelArchitecture(
    encoder=TINY.with_widths({**TINY.widths(), "num_heads": [4, 3, 2, 0]}),
    head=HeadConfig(),
    dense_widths={name: tuple(widths) for name, widths in TINY.widths().items()},
)


@given(encoder=architectures(with_absent=True))
def test_what_is_written_is_read(encoder):
    model = ModelArchitecture(encoder=encoder, head=HeadConfig(embedding_dim=3))
    assert fit_json(ModelArchitecture, json.dumps(asdict(model))) == model


def test_a_cut_model_knows_what_it_was():
    again = fit_json(ModelArchitecture, json.dumps(asdict(CUT)))
    assert again == CUT and again.is_pruned and again.dense_encoder() == TINY
    assert not MODEL.is_pruned and MODEL.dense_encoder() is TINY


def test_the_published_encoder():
    assert W2V_BERT_2.num_layers == 24 and W2V_BERT_2.head_size == 64
    assert W2V_BERT_2.left_positions + W2V_BERT_2.right_positions + 1 == 73


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(lr=1), "^lr: unknown key"),
        (lambda r: r.pop("head"), "^head: missing"),
        (lambda r: r["encoder"].update(num_heads=[4, 4]), "one width per layer"),
        (
            lambda r: r["encoder"].update(num_heads=[4, 4, 4, -1]),
            r"num_heads\[3\]: expected a whole number >= 0 and",
        ),
        (lambda r: r["encoder"].update(conv_dim=[1.5] * 4), r"conv_dim\[0\]: expected a whole number >= 0"),
        (
            lambda r: r["encoder"].update(hidden_size="128"),
            "hidden_size: expected a whole number >= 1 and .* found '128'",
        ),
        (lambda r: r["encoder"].update(depth=3), "^encoder.depth: unknown key"),
        (
            lambda r: r["encoder"].update(hidden_size=0),
            "hidden_size: expected a whole number >= 1 and .* found 0",
        ),
        (lambda r: r["head"].update(embedding_dim=0), "head.embedding_dim: expected a whole number >= 1"),
        (lambda r: r.update(encoder=None), "encoder: expected an object, found null"),
        (lambda r: r.update(dense_widths={"num_heads": [1]}), "dense_widths: expected one width per layer"),
        (
            lambda r: r.update(dense_widths={n: [1, 2] for n in TINY.widths()} | {"num_heads": [1]}),
            "one width per",
        ),
    ],
)
def test_other_content_is_refused_by_name(change, message):
    record = json.loads(json.dumps(asdict(MODEL)))
    change(record)
    with pytest.raises(Misfit, match=message):
        fit_json(ModelArchitecture, json.dumps(record))


def test_hidden_size_must_divide_into_heads():
    with pytest.raises(ArtifactError, match="10 is not a multiple of 4 heads"):
        EncoderArchitecture.uniform(num_layers=1, hidden_size=10, num_heads=4, ffn_dim=8)
