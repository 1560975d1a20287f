"""A data set or a run on one page: what the stages know of it, drawn for people."""
