"""What is said of a split's classes and of what was left out, against numbers counted by hand."""

from alexstream.sharding.overview import format_left_out, summarize_class_sizes


def test_the_median_class_is_the_middle_one_or_between_the_two_middle_ones():
    assert summarize_class_sizes({"a": 9, "b": 1, "c": 5}) == {"smallest": 1, "median": 5, "largest": 9}
    assert summarize_class_sizes({"a": 9, "b": 2, "c": 5, "d": 1})["median"] == 3  # between 2 and 5, rounded down


def test_a_folder_that_is_left_out_counts_as_its_files():
    left_out = [
        ("a/@eaDir", "system files (1,204 files)"),
        ("b.txt", "no image"),
        ("c/@eaDir", "system files (1 file)"),
    ]
    assert format_left_out(left_out) == [
        "NOTE left out: 1,205 × system files, the first: a/@eaDir",
        "NOTE left out: 1 × no image, the first: b.txt",
    ]
