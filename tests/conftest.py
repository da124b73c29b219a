"""Shared by all tests: one thread (two cores are shared), no network, no terminal."""

import os

# Before torch is imported anywhere: a test of a small model is faster on one thread, and stays deterministic.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "agg"
for _name in ("SVKIT_EXP", "SVKIT_VOXCELEB", "RANK", "WORLD_SIZE", "LOCAL_RANK", "FORCE_COLOR"):
    os.environ.pop(_name, None)

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# A busy machine is no mistake in the code: the time limit is pytest's. CI draws the same examples every time, so that
# it judges the change; at a desk every run draws others.
hypothesis.settings.register_profile("svkit", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("svkit")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none; torch is imported only if such a test was collected."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="no GPU"))
