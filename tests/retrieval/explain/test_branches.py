"""Masks of look's branches: against sigmoid(conv1x1(T)) by hand, cell by cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from index.errors import ModelError
from retrieval import photos
from retrieval.explain.branches import branch_masks, branches
from retrieval.models import checkpoint
from retrieval.models.attention import LocalBranch

SIDE = 32  # of the tiny model's letterbox


@pytest.mark.usefixtures("_one_thread")
def test_masks_are_those_of_the_branches_over_the_photo(tiny_model: Path, garment_photos: Path) -> None:
    model = checkpoint.read(tiny_model)
    model.net.quick = False
    files = sorted((garment_photos / "photos").iterdir())[:3]
    pixels = np.stack([photos.load(file, SIDE).pixels for file in files])
    masks = branch_masks(model.net, pixels)
    assert masks.shape == (3, 2, SIDE, SIDE)
    with torch.no_grad():
        last, _ = model.net.feature_maps(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    stride = SIDE // last.shape[-1]
    for n in range(3):
        for k, branch in enumerate(model.net.branches):
            assert isinstance(branch, LocalBranch)
            assert branch.mask is not None
            weight, bias = branch.mask.weight[0, :, 0, 0], branch.mask.bias
            for r in range(last.shape[2]):
                for c in range(last.shape[3]):
                    expected = torch.sigmoid(torch.dot(weight, last[n, :, r, c]) + bias)
                    assert masks[n, k, r * stride, c * stride] == pytest.approx(expected.item(), abs=1e-5)
    (found, *_) = branches(model, files)
    assert (found.width, found.height) == (120, 160)
    assert found.masks.shape == (2, 32, 24)  # the letterbox's bars are no part of it
    np.testing.assert_array_equal(found.masks, masks[0, :, :, 4:28])
    without = model.config.model.model_copy(update={"gates": "channel"})
    with pytest.raises(ModelError, match="no spatial mask"):
        branches(replace(model, config=model.config.model_copy(update={"model": without})), files)
