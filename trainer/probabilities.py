"""Pure: what a network says of an image's views → one distribution over the classes, and what its label earns.

Everything is float64 and in logarithms: of one view it is the log-softmax itself, and of many the logarithm of the
arithmetic mean of their softmax probabilities, also where those would be too small to be written down.

Shape legend: M = models, N = images, V = views (1 or 10), K = classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

Model = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def log_probabilities(models: Sequence[Model], images: torch.Tensor) -> torch.Tensor:
    """Each model's log of the mean probability over an image's views, float64 (M, N, K).

    ``images``: (N, C, H, W), one view, or (N, V, C, H, W). The views go through a model one by one: they need the
    memory of one, and the centre's probabilities are the same bits whether it is alone or one of ten.
    """
    views = images.unbind(1) if images.dim() == 5 else (images,)
    return torch.stack([_mean_over_views(model, views) for model in models])


def _mean_over_views(model: Model, views: Sequence[torch.Tensor]) -> torch.Tensor:
    each = torch.stack([model(view).double().log_softmax(1) for view in views])
    return each[0] if len(views) == 1 else each.logsumexp(0) - math.log(len(views))


def mixed(log_probabilities_MNK: torch.Tensor, weights_M: Sequence[float]) -> torch.Tensor:
    """Log of Σ weight · probability over the models, (N, K); ``weights_M`` are not negative and sum to 1."""
    weights = torch.tensor(weights_M, dtype=torch.float64, device=log_probabilities_MNK.device)
    return (log_probabilities_MNK + weights.log()[:, None, None]).logsumexp(0)


def credit(log_probabilities_NK: torch.Tensor, labels_N: torch.Tensor, k: int) -> torch.Tensor:
    """What each image earns in top-``k``: 1 if its label is among the first ``k`` classes, else 0; float64 (N,).

    Classes with equal probabilities share their places, as in the program of 2012: of t that tie for the last p
    places, each earns p / t, which is what a fair draw would give on average. What is no number earns nothing.
    """
    own = log_probabilities_NK.gather(1, labels_N[:, None])
    above = (log_probabilities_NK > own).sum(1)
    tied = (log_probabilities_NK == own).sum(1)
    return torch.where(tied > 0, ((k - above) / tied.clamp(min=1)).clamp(0.0, 1.0), 0.0).double()


def first_classes(log_probabilities_NK: torch.Tensor, count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """The most probable classes, int64 (N, count or K), and their probabilities; of equal ones the lower first."""
    ordered, classes = log_probabilities_NK.sort(dim=1, descending=True, stable=True)
    return classes[:, :count], ordered[:, :count].exp()
