"""The thing to beat: the same cells as people write them, a straightforward script around PyTorch and scikit-learn.

A DataLoader over PIL images, importances computed for each request, validation after each epoch of training, the attack
at batch size 1. It is kinder than the released code: no lists of images are built in memory.
"""

from __future__ import annotations

import copy
import math
from unittest.mock import patch

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from torch.utils.data import ConcatDataset, DataLoader, Subset
from torchvision import transforms

from ssd_bench.core.task import Images
from ssd_bench.methods.ssd import dampen
from ssd_bench.metrics.membership import entropy
from ssd_bench.models import resnet


class Folder(torch.utils.data.Dataset):
    """Images as PIL hands them out, one by one."""

    def __init__(self, images: Images) -> None:
        self.arrays = images.pixels.cpu().permute(0, 2, 3, 1).numpy()
        self.labels = images.labels.cpu().tolist()
        mean, std = images.mean.cpu().tolist(), images.std.cpu().tolist()
        steps = [transforms.ToPILImage(), transforms.ToTensor(), transforms.Normalize(mean, std)]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.arrays[i]), self.labels[i]


class Usual:
    """A straightforward implementation of the same cells."""

    def __init__(self, model: nn.Module, images: dict[str, Images], target: int) -> None:
        self.model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
        self.device = images["train"].pixels.device
        train, test = Folder(images["train"]), Folder(images["test"])
        labels = torch.tensor(train.labels)
        of_test = torch.tensor(test.labels)
        self.train, self.test = train, test
        self.forget = Subset(train, (labels == target).nonzero().flatten().tolist())
        self.retain = Subset(train, (labels != target).nonzero().flatten().tolist())
        self.test_forget = Subset(test, (of_test == target).nonzero().flatten().tolist())
        self.test_retain = Subset(test, (of_test != target).nonzero().flatten().tolist())

    def cell(self, method: str) -> None:
        model = copy.deepcopy(self.model)
        with patch.object(resnet, "normalised", lambda conv, norm, x: norm(conv(x))):  # as everybody writes it
            if method != "original":
                getattr(self, method)(model)
            self.evaluate(model)

    def batches(self, data: torch.utils.data.Dataset, size: int, shuffle: bool = False) -> DataLoader:
        loader = DataLoader(data, batch_size=size, shuffle=shuffle)
        return ((x.to(self.device), y.to(self.device)) for x, y in loader)

    def ssd(self, model: nn.Module) -> None:
        full, forget = (self.importance(model, data) for data in (self.train, self.forget))
        dampen(model, full, forget, 10.0, 1.0)

    def importance(self, model: nn.Module, data: torch.utils.data.Dataset) -> dict[str, Tensor]:
        model.eval()
        total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for x, y in self.batches(data, 64):
            model.zero_grad()
            cross_entropy(model(x), y).backward()
            for name, p in model.named_parameters():
                total[name] += p.grad.clone().pow(2)
        return {name: t / math.ceil(len(data) / 64) for name, t in total.items()}

    def train_on(self, model: nn.Module, data: torch.utils.data.Dataset, epochs: int, size: int, lr: float) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        model.train()
        for _ in range(epochs):
            for x, y in self.batches(data, size, shuffle=True):
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                optimizer.step()
            self.accuracies(model)
            model.train()

    def finetune(self, model: nn.Module) -> None:
        self.train_on(model, self.retain, 5, 64, 0.02)

    def amnesiac(self, model: nn.Module) -> None:
        self.train_on(model, self.train, 3, 128, 1e-4)

    def teacher(self, model: nn.Module) -> None:
        good, bad = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
        kept = torch.randperm(len(self.retain))[: int(0.3 * len(self.retain))].tolist()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        model.train()
        for x, _ in self.batches(ConcatDataset([self.forget, Subset(self.retain, kept)]), 256, shuffle=True):
            with torch.no_grad():
                target = (softmax(good(x), 1) + softmax(bad(x), 1)) / 2
            optimizer.zero_grad()
            kl_div(log_softmax(model(x), 1), target, reduction="batchmean").backward()
            optimizer.step()

    def unsir(self, model: nn.Module) -> None:
        noise = torch.randn(32, 3, 32, 32, device=self.device, requires_grad=True)
        optimizer = torch.optim.Adam([noise], lr=0.1)
        for _ in range(25):
            optimizer.zero_grad()
            (-cross_entropy(model(noise), torch.zeros(32, dtype=torch.long, device=self.device))).backward()
            optimizer.step()
        copies = [(image, 0) for image in noise.detach().cpu().repeat(80, 1, 1, 1)]
        self.train_on(model, ConcatDataset([copies, self.retain]), 1, 32, 1e-4)
        self.train_on(model, self.retain, 1, 128, 1e-4)

    @torch.no_grad()
    def accuracies(self, model: nn.Module) -> None:
        model.eval()
        for data in (self.test_retain, self.test_forget):
            np.mean([(model(x).argmax(1) == y).float().mean().item() for x, y in self.batches(data, 64)])

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> None:
        self.accuracies(model)
        entropies = []
        for data in (self.retain, self.test, self.forget):
            probs = torch.cat([softmax(model(x), 1).cpu() for x, _ in self.batches(data, 1)])
            entropies.append(entropy(probs)[:, None].numpy())
        labels = np.repeat([1, 0], [len(e) for e in entropies[:2]])
        attack = LogisticRegression(class_weight="balanced").fit(np.concatenate(entropies[:2]), labels)
        attack.predict(entropies[2]).mean()
