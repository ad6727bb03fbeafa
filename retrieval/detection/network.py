"""The network: torchvision's Faster R-CNN over one of our backbones, or one of torchvision's own detectors."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from index.errors import ModelError
from retrieval.detection.config import DetectorSizes
from retrieval.models import backbone
from retrieval.models.network import MEAN, STD

SHALLOW = (8, 16)  # photo over map of the earlier maps in the pyramid; the last map is the third
SIDES = ((0.06, 0.10), (0.16, 0.26), (0.40, 0.62))  # anchors of each map, as shares of the input's long side
RATIOS = (0.5, 1.0, 2.0)  # height over width
SEEN, KEPT = 100, 30  # proposals looked at, garments told, of a photo
LEAST = 0.05  # boxes of a lower score are never told


class Pyramid(nn.Module):
    """A backbone of ours under a feature pyramid: photos (n, 3, h, w), normalised by ImageNet's statistics, to maps of
    ``out_channels`` at an eighth, a sixteenth and the backbone's last stride."""

    def __init__(self, sizes: DetectorSizes) -> None:
        super().__init__()
        whole = backbone.build(sizes.backbone, pretrained=sizes.pretrained)
        self.stem, self.body = whole.stem, whole.body
        earlier = [whole.shallow[stride] for stride in SHALLOW]
        self.at = [*(place for place, _ in earlier), len(whole.body) - 1]
        self.pyramid = FeaturePyramidNetwork([*(c for _, c in earlier), whole.channels], sizes.channels)
        self.out_channels = sizes.channels  # torchvision asks for this name

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        x = self.stem(x)
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for place, stage in enumerate(self.body):
            x = stage(x)
            if place in self.at:
                maps[str(len(maps))] = x
        found: OrderedDict[str, Tensor] = self.pyramid(maps)
        return found


def build(sizes: DetectorSizes, classes: int) -> FasterRCNN:
    """The network for that many classes beside the background, in training mode.

    It takes photos (3, h, w) float32 0 to 1, of any sizes, and brings their long side to ``input_size`` itself.
    ModelError when pretrained weights are asked for and cannot be had.
    """
    side = sizes.input_size
    limits: dict[str, Any] = {"min_size": side, "max_size": side, "box_score_thresh": LEAST}
    limits["box_detections_per_img"] = KEPT
    if sizes.whole:
        return _torchvision(sizes, classes, limits)
    maps = Pyramid(sizes)
    anchors = tuple(tuple(max(4, round(share * side)) for share in shares) for shares in SIDES)
    return FasterRCNN(
        maps,
        image_mean=list(MEAN),
        image_std=list(STD),
        rpn_anchor_generator=AnchorGenerator(anchors, (RATIOS,) * len(SIDES)),
        rpn_pre_nms_top_n_train=500, rpn_post_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=300, rpn_post_nms_top_n_test=SEEN,
        box_roi_pool=_pool(),
        box_head=TwoMLPHead(sizes.channels * 49, sizes.hidden),
        box_predictor=FastRCNNPredictor(sizes.hidden, classes + 1),
        box_batch_size_per_image=64,
        **limits,
    )  # fmt: skip


def _pool() -> MultiScaleRoIAlign:
    """torchvision's, told the maps' scales by a square photo: it keeps those that it reads off the first photo it
    sees, and misreads them where padding makes much of the height, as in a panorama."""
    pool = MultiScaleRoIAlign([str(i) for i in range(len(SIDES))], 7, 2)
    maps = {str(i): torch.zeros(1, 1, 32 >> i, 32 >> i) for i in range(len(SIDES))}
    pool(maps, [torch.zeros(1, 4)], [(256, 256)])
    return pool


def _torchvision(sizes: DetectorSizes, classes: int, limits: dict[str, Any]) -> FasterRCNN:
    """torchvision's detector of that name, its predictor made anew for our classes."""
    weights = "DEFAULT" if sizes.pretrained else None
    try:
        net: FasterRCNN = detection.__dict__[sizes.backbone](weights=weights, weights_backbone=None, **limits)
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a broken download is a RuntimeError
        raise ModelError(
            f"pretrained weights of {sizes.backbone} cannot be fetched ({error}): connect to the network, put the file "
            f"that torchvision names into {torch.hub.get_dir()}/checkpoints, or take a backbone such as "
            "efficientnet_lite0"
        ) from None
    head: Any = net.roi_heads
    head.box_predictor = FastRCNNPredictor(head.box_predictor.cls_score.in_features, classes + 1)
    return net


def resize_to(net: FasterRCNN, side: int) -> None:
    """Photos are brought to this long side from now on."""
    net.transform.min_size, net.transform.max_size = (side,), side


def freeze(net: FasterRCNN, stages: int) -> None:
    """Stem and so many stages of a ``Pyramid`` learn nothing; of torchvision's own detectors nothing is frozen here."""
    if isinstance(net.backbone, Pyramid):
        for part in (net.backbone.stem, *list(net.backbone.body)[:stages]) if stages else ():
            part.requires_grad_(False)


def hold_norms(net: nn.Module) -> None:
    """Batch norms keep the statistics that they have: batches of a few photos tell none."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
