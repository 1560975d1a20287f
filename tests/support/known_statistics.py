"""Statistics of a data set that nobody computed: axes and variances that can be written down."""

from alexstream.sharding.dataset_v1.statistics import DatasetStats

# An orthonormal matrix of thirds, so that every entry takes part, and variances on 0..255.
AXES = ((2 / 3, -2 / 3, 1 / 3), (2 / 3, 1 / 3, -2 / 3), (1 / 3, 2 / 3, 2 / 3))
VARIANCES = (9000.0, 250.0, 40.0)
STATS = DatasetStats(
    dataset_digest="d",
    num_images=1,
    num_pixels=1,
    rgb_sums=(0, 0, 0),
    rgb_products=((0, 0, 0),) * 3,
    mean_rgb_255=(0.0, 0.0, 0.0),
    covariance_255=((400.0, 0.0, 0.0), (0.0, 900.0, 0.0), (0.0, 0.0, 1600.0)),
    eigenvalues_255=VARIANCES,
    eigenvalues_01=tuple(value / 255**2 for value in VARIANCES),
    eigenvectors=AXES,
    mean_image_sha256="",
)
