"""What the paper says about training, as one frozen value; a checkpoint is bound to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Hyper-parameters of Krizhevsky et al. (2012), with the section that states each.

    ``lrn_alpha`` multiplies the plain sum of squares over ``lrn_maps`` adjacent maps, as section 3.3 is
    written (torch's ``local_response_norm`` divides its alpha by the number of maps).
    """

    learning_rate: float = 0.01  # section 5
    momentum: float = 0.9  # section 5
    weight_decay: float = 0.0005  # section 5: on every parameter
    rate_divisor: float = 10.0  # section 5: when validation error stops improving ...
    rate_drops: int = 3  # ... three times prior to termination
    patience_epochs: int = 5  # the paper does not say how long it waited
    weight_sd: float = 0.01  # section 5: zero-mean Gaussian in each layer
    dropout: float = 0.5  # section 4.2
    lrn_k: float = 2.0  # section 3.3
    lrn_maps: int = 5
    lrn_alpha: float = 1e-4
    lrn_beta: float = 0.75


PAPER = Recipe()
