"""Statistical checks of augmentation, each an assertion about measured draws against the paper's closed form.

Every check is an exact or asymptotic test at level ``LEVEL``. The streams that the suite measures have fixed
seeds, so it cannot flicker; under another seed a right formula fails one of some twenty checks with a chance
of about 2e-5, while the broken formulas of ``test_augmentation_statistics`` give p-values far below it.
"""

import numpy as np
from scipy import stats

LEVEL = 1e-6


def whitened(offsets_N3, covariance_CC):
    """Offsets in units of the expected standard deviations, along the expected axes."""
    values, vectors = np.linalg.eigh(covariance_CC)
    return offsets_N3 @ vectors / np.sqrt(values)


def check_covariance(offsets_N3, covariance_CC):
    """Likelihood-ratio test of Σ = Σ₀ (Anderson 2003, 10.8): N (tr S − log det S − 3) ~ χ²(6)."""
    w = whitened(offsets_N3, covariance_CC)
    s = w.T @ w / len(w)
    statistic = len(w) * (np.trace(s) - np.linalg.slogdet(s)[1] - 3)
    p = stats.chi2.sf(statistic, 6)
    assert p > LEVEL, f"covariance of the lighting offset departs from the closed form: p = {p:.1e}\n{s}"


def check_mean(offsets_N3, covariance_CC):
    """The mean offset is zero: N |mean|² ~ χ²(3) after whitening."""
    w = whitened(offsets_N3, covariance_CC)
    p = stats.chi2.sf(len(w) * np.sum(w.mean(0) ** 2), 3)
    assert p > LEVEL, f"mean of the lighting offset is not zero: p = {p:.1e}"


def check_normal(offsets_N3, covariance_CC):
    """Kolmogorov and Smirnov: each component is N(0, 1) after whitening."""
    p = min(stats.kstest(column, "norm").pvalue for column in whitened(offsets_N3, covariance_CC).T)
    assert p > LEVEL, f"the lighting offset is not normal: p = {p:.1e}"


def check_unrelated(first_N3, second_N3):
    """No correlation between two sets of draws: N Σ r² over the 9 pairs of components ~ χ²(9)."""
    a, b = (x - x.mean(0) for x in (first_N3, second_N3))
    r = (a.T @ b) / np.sqrt(np.outer((a**2).sum(0), (b**2).sum(0)))
    p = stats.chi2.sf(len(a) * np.sum(r**2), 9)
    assert p > LEVEL, f"draws that should be independent are related: p = {p:.1e}\n{r}"


def check_uniform(values_N, count):
    """Chi-square: integers 0..count-1 come equally often."""
    assert values_N.min() >= 0 and values_N.max() < count
    p = stats.chisquare(np.bincount(values_N, minlength=count)).pvalue
    assert p > LEVEL, f"{count} values are not equally likely: p = {p:.1e}"


def check_fair(flips_N):
    """Binomial: half of the images are mirrored."""
    p = stats.binomtest(int(flips_N.sum()), len(flips_N)).pvalue
    assert p > LEVEL, f"flips are not fair: {flips_N.mean():.3f}, p = {p:.1e}"


def check_independent(first_N, second_N):
    """Chi-square of the contingency table of two integer draws."""
    table = np.zeros((first_N.max() + 1, second_N.max() + 1))
    np.add.at(table, (first_N, second_N), 1)
    p = stats.chi2_contingency(table).pvalue
    assert p > LEVEL, f"two draws are not independent: p = {p:.1e}"


def check_constant(difference_NCHW, tolerance):
    """An offset is the same at every pixel of a channel."""
    spread = difference_NCHW.max((2, 3)) - difference_NCHW.min((2, 3))
    assert spread.max() <= tolerance, f"the offset varies over the pixels of an image by {spread.max()}"
