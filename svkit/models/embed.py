"""Utterances to embeddings: batches of a manifest through a network."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from svkit.audio.features import is_too_short
from svkit.config.schema import ExtractConfig
from svkit.data.evaluation import length_sorted_batches, read_batches
from svkit.errors import DataError, first_five
from svkit.nn.speaker import SpeakerNetwork
from svkit.store.manifest import Manifest


def refuse_short_rows(manifest: Manifest) -> None:
    """Raise DataError naming utterances that give no frame at all (under 35 ms)."""
    short = manifest.utterance_ids[is_too_short(manifest.num_samples, manifest.sample_rates_hz)]
    if len(short):
        raise DataError(
            f"{manifest.source}: expected at least 35 ms of audio, found less in {first_five(list(short))}; "
            "leave them out of the list"
        )


@torch.inference_mode()
def embed_rows(
    network: SpeakerNetwork,
    manifest: Manifest,
    extract: ExtractConfig,
    accelerator: Accelerator,
    done_rows: NDArray[np.int64] | tuple[()] = (),
    change: Callable[[NDArray[np.float32], int], NDArray[np.float32]] | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Embed this process's share of the rows of a manifest, in length-sorted padded batches.

    Batches that hold only `done_rows` are left out; `change` is passed to `read_batches`. The network is on the
    accelerator's device, in evaluation mode.

    Yields:
        Rows int64 [B] and their embeddings float32 [B, D] of each batch.
    """
    batches = length_sorted_batches(
        manifest,
        max_seconds=extract.max_seconds,
        batch_seconds=extract.batch_seconds,
        done_rows=done_rows,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    for rows, waveforms in read_batches(manifest, batches, max_seconds=extract.max_seconds, change=change):
        with accelerator.autocast():
            embeddings = network.embed_padded(waveforms)
        yield rows, embeddings
