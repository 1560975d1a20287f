"""Files of options by somebody else: a few kilobytes of dots would make tomllib take gigabytes."""

import tracemalloc

import pytest

from alexstream.core.toml import MAX_BYTES, parse_toml

KEY = ".".join(["a"] * 3000)


def test_a_file_of_options_is_read():
    content = b'data = "' + b"../" * 100 + b'x"\n# ' + b"." * 9 + b"\nlr = 0.1\nnames = ['" + b".pt', '" * 100 + b"']\n"
    found = parse_toml(content + b'odd = "\xff"\nlong = """\na.b.c\n"""\n')
    assert found["lr"] == 0.1 and found["data"] == "../" * 100 + "x" and len(found["names"]) == 101
    assert found["odd"] == "\udcff" and found["long"] == "a.b.c\n"


@pytest.mark.parametrize(
    "text",
    [
        f"{KEY} = 1",
        f"[{KEY}]",
        f"[[{KEY}]]",
        f"x = {{ {KEY} = 1 }}",
        f'"q" . {KEY} = 1',
        f"x = 'text' # \"\n{KEY} = 1",
        ".".join(['"a.b"'] * 3000) + " = 1",
        f'x = {{ t = """\n""", {KEY} = 1, u = """\n""" }}',
        f"x = {{ t = '''\n''', {KEY} = 1, u = '''\n''' }}",
        f'x = "\\"" \n{KEY} = 1',
    ],
)
def test_keys_of_thousands_of_parts_are_refused_before_they_take_memory(text):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="has more than 64 dots outside texts"):
            parse_toml(text.encode())
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()


def test_as_many_dots_as_are_allowed_take_little():
    line = ".".join(["a"] * 64)
    content = "".join(f"[{line}.b{i}]\n{line} = 1\n" for i in range(980)).encode()
    assert MAX_BYTES * 0.9 < len(content) <= MAX_BYTES
    tracemalloc.start()
    parse_toml(content)
    assert tracemalloc.get_traced_memory()[1] < 500 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["#" + "x" * MAX_BYTES, "a = " + "[" * 9000, 'a = "' + '\\"' * 100_000, "a = 1" + "0" * 9000]
)
def test_what_is_too_long_or_too_deep_is_refused(text):
    with pytest.raises((ValueError, RecursionError)):
        parse_toml(text.encode())
