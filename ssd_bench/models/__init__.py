"""Architectures and checkpoints. A class of one's own may build on these two."""

from ssd_bench.models.resnet import ResNet18
from ssd_bench.models.vit import ViT

__all__ = ["ResNet18", "ViT"]
