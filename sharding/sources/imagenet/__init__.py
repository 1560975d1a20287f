"""ImageNet as it is distributed: the original archives and their devkit, Kaggle's layout, the facts of ILSVRC2012."""
