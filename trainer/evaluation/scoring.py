"""Class probabilities of images, averaged over views and models, and top-k credit where classes tie. Pure.

Probabilities are float64 logarithms, so that very small ones do not underflow: the log-softmax of a single view, or
the logarithm of the arithmetic mean of several views' softmax probabilities.

Shape legend: M = models, N = images, V = views (1 or 10), K = classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

Model = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def compute_log_probabilities(models: Sequence[Model], images: torch.Tensor) -> torch.Tensor:
    """Compute each model's log of the mean probability over an image's views, float64 (M, N, K).

    ``images``: (N, C, H, W), one view, or (N, V, C, H, W). Views go through a model one by one: this needs the memory
    of one view, and the center view's probabilities are the same bits alone and as one of ten.
    """
    views = images.unbind(1) if images.dim() == 5 else (images,)
    return torch.stack([_average_over_views(model, views) for model in models])


def _average_over_views(model: Model, views: Sequence[torch.Tensor]) -> torch.Tensor:
    each = torch.stack([model(view).double().log_softmax(1) for view in views])
    return each[0] if len(views) == 1 else each.logsumexp(0) - math.log(len(views))


def mix_models(log_probabilities_MNK: torch.Tensor, weights_M: Sequence[float]) -> torch.Tensor:
    """Return the log of Σ weight · probability over the models, (N, K); weights are not negative and sum to 1."""
    weights = torch.tensor(weights_M, dtype=torch.float64, device=log_probabilities_MNK.device)
    return (log_probabilities_MNK + weights.log()[:, None, None]).logsumexp(0)


def count_topk_places(
    log_probabilities_NK: torch.Tensor, labels_N: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Count, for each image's label, the top-``k`` places that it shares, and the classes that share them (ties).

    Both int64 (N,). As in the program of 2012, t classes of equal probability that compete for the last p places earn
    p / t each, the expectation of a random tie-break. A label whose probability is NaN wins no place.
    """
    own = log_probabilities_NK.gather(1, labels_N[:, None])
    above = (log_probabilities_NK > own).sum(1)
    tied = (log_probabilities_NK == own).sum(1)
    return torch.minimum((k - above).clamp(min=0), tied), tied


def compute_topk_credit(log_probabilities_NK: torch.Tensor, labels_N: torch.Tensor, k: int) -> torch.Tensor:
    """Compute the top-``k`` credit of each image, ``count_topk_places`` divided by ties: float64 (N,), from 0 to 1."""
    won, tied = count_topk_places(log_probabilities_NK, labels_N, k)
    return won.double() / tied.clamp(min=1)


def compute_chance(num_classes: int, k: int = 1) -> float:
    """Compute the top-``k`` accuracy of guessing among so many classes, from 0 to 1."""
    return min(1.0, k / num_classes)


def format_chance(num_classes: int, k: int = 1) -> str:
    """Format ``compute_chance`` to stand behind an accuracy: ``(chance 0.5 %)``."""
    return f"(chance {100 * compute_chance(num_classes, k):.3g} %)"


def select_top_classes(log_probabilities_NK: torch.Tensor, count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the most probable classes, int64 (N, count or K), and their probabilities; ties by ascending class."""
    ordered, classes = log_probabilities_NK.sort(dim=1, descending=True, stable=True)
    return classes[:, :count], ordered[:, :count].exp()
