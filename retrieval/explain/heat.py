"""Heat maps: which places of a photo raised a network's answer. The gradients are captum's, an optional library.

``grad-cam``: of the last feature map T, ReLU(sum_k a_k T_k), a_k the mean of dy/dT_k over the map (Selvaraju et al.
2017). ``layer-cam``: sum_k ReLU(T_k dy/dT_k), cell by cell (LayerCAM, Jiang et al. 2021), of the last map and of the
one of an eighth of the photo, each scaled to 1 at its highest, and multiplied: the last map knows what matters, the
other one where. ``head-cam``, of attributes alone and their default: the same, but of the last map the share of each
cell in what the head takes from it (``AttributeBlock.shares``). docs/explain.md has the figures of all three.

A map has one number for each cell of a feature map. Cell i of a convolutional network with odd kernels and "same"
padding looks at a neighbourhood centred on pixel i x stride, not on the middle of tile i; ``grown`` puts it there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from index.errors import MissingDependencyError
from retrieval.models.network import GarmentNet
from retrieval.photos import Pixels

Maps = npt.NDArray[np.float32]
Method: TypeAlias = Literal["head-cam", "layer-cam", "grad-cam"]
BATCH = 64


def attribute_heat(
    net: GarmentNet, pixels: Pixels, attribute: str, codes: npt.NDArray[np.int64], method: Method = "head-cam"
) -> Maps:
    """Heat of the logits of ``codes``, one value number for each photo.

    pixels: (n, s, s, 3) uint8, letterboxed. Returns (n, s, s) float32, 0 and above, 1 at the highest of each; 0
    everywhere: no place raised it. ``net`` is in eval mode; its hooks are as before afterwards. MissingDependencyError
    without captum.
    """
    answer, wanted = (lambda photos: net(photos).logits[attribute]), torch.from_numpy(codes)
    return _heat(net, answer, pixels, wanted, None, method, net.attributes[attribute])


def block_heat(
    net: GarmentNet,
    pixels: Pixels,
    block: str,
    directions: npt.NDArray[np.float32],
    method: Literal["layer-cam", "grad-cam"] = "layer-cam",
) -> Maps:
    """Heat of <q_b, f_b(x)>, the similarity of one block to ``directions``, (n, D_b); as ``attribute_heat``.

    f_b is the raw feature: its length takes no part in the score, but the gradient of the unit one is zero where query
    and result agree fully, which would leave the best results without a reason (Stylianou et al. 2019).
    """

    def similarity(photos: Tensor, asked: Tensor) -> Tensor:
        return (net(photos).blocks[block] * asked).sum(dim=1)

    asked = torch.from_numpy(np.ascontiguousarray(directions, np.float32))
    return _heat(net, similarity, pixels, None, asked, method)


def _heat(
    net: GarmentNet,
    answer: Callable[..., Tensor],
    pixels: Pixels,
    codes: Tensor | None,
    asked: Tensor | None,
    method: Method,
    head: Any = None,
) -> Maps:
    where = next(net.parameters()).device
    captum, stages = _captum(), list(net.body)
    maps = []
    for start in range(0, len(pixels), BATCH):
        span = slice(start, start + BATCH)
        photos = torch.from_numpy(pixels[span]).permute(0, 3, 1, 2).to(where, torch.float32)
        target = None if codes is None else codes[span].to(where)
        more = None if asked is None else asked[span].to(where)
        if method == "grad-cam":
            cam = captum.LayerGradCam(answer, stages[-1])
            found = [cam.attribute(photos, target, more, relu_attributions=True)]  # (n, 1, h, w)
        else:
            layers = [stages[net.taps[8]], *([stages[-1]] if method == "layer-cam" else [])]
            product = captum.LayerGradientXActivation(answer, layers)
            found = [each.clamp(min=0).sum(dim=1, keepdim=True) for each in product.attribute(photos, target, more)]
        if method == "head-cam":
            found.append(head.shares(net.feature_maps(photos)[0])[:, None])  # with gradients on: never in bfloat16
        size = pixels.shape[1]
        both = [grown(each.detach().float().cpu().numpy()[:, 0], size) for each in found]
        maps.append(normal(np.prod([normal(each) for each in both], axis=0)))
    return np.concatenate(maps)


def normal(maps: Maps) -> Maps:
    """Maps (n, h, w), each scaled so that its highest is 1; zeros stay zeros."""
    top = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, top, out=np.zeros_like(maps), where=top > 0)


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError:
        raise MissingDependencyError("heat maps need captum: pip install 'fsearch[explain]'") from None
    return captum.attr


def stride_of(cells: int, size: int) -> int:
    """Pixels from cell to cell of a map that is ``cells`` wide of a photo ``size`` wide: a power of two."""
    return 2 ** round(float(np.log2(size / cells)))


def grown(maps: Maps, size: int) -> Maps:
    """Maps (n, h, h) at the photos' size, (n, size, size): bilinear between cells' centres, level beyond the last."""
    n, cells, _ = maps.shape
    place = torch.arange(size, dtype=torch.float32) / stride_of(cells, size)  # in cells
    place = (2 * place + 1) / cells - 1  # as grid_sample counts
    y, x = torch.meshgrid(place, place, indexing="ij")
    grid = torch.stack((x, y), dim=-1).expand(n, size, size, 2)
    source = torch.from_numpy(maps)[:, None]
    return F.grid_sample(source, grid, padding_mode="border", align_corners=False)[:, 0].numpy()
