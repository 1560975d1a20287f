"""Damage, drawn from a seed: to bytes of any kind, and to JSON whose structure stays JSON."""

import copy
import json
import pickletools

INTERESTING = (0, 1, 7, 8, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)
VALUES = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "0",
    "é\0\n",
)
VALUES += ("../../etc/passwd", "\ud800", "\x1b[2J", "x" * 10_000, [], {}, [[]], [None] * 1000, {"a": {}}, 1.5, -1.0)


def damaged(data, chance, most=8):
    """A copy of ``data`` with one to ``most`` changes."""
    data = bytearray(data)
    for _ in range(chance.randint(1, most)):
        chance.choice(CHANGES)(data, chance)
    return bytes(data)


def _place(data, chance):
    return chance.randrange(len(data) + 1)


def _flip(data, chance):
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _overwrite(data, chance):
    at, size = _place(data, chance), chance.choice((1, 2, 4, 8))
    value = chance.choice(INTERESTING) & ((1 << 8 * size) - 1)
    data[at : at + size] = value.to_bytes(size, chance.choice(("little", "big")))


def _cut(data, chance):
    at = _place(data, chance)
    del data[at : at + chance.choice((1, 2, 16, 512, len(data)))]


def _repeat(data, chance):
    at = _place(data, chance)
    piece = bytes(data[at : at + chance.choice((1, 4, 64, 512))])
    data[at:at] = piece * chance.choice((1, 2, 50))


def _insert(data, chance):
    at = _place(data, chance)
    data[at:at] = chance.randbytes(chance.choice((1, 2, 8, 100)))


def _move(data, chance):
    a, b = sorted((_place(data, chance), _place(data, chance)))
    piece = bytes(data[a:b])
    del data[a:b]
    at = _place(data, chance)
    data[at:at] = piece


def damaged_pickle(data, chance):
    """Damage to what a pickle does: operations and names are added, repeated, lost, moved or have other arguments.

    The rest of the file stays where it is: what is longer takes the place of what follows.
    """
    pickled = data
    places = [place for _, _, place in _operations(pickled)]
    for _ in range(chance.randint(1, 4)):
        at, other = chance.choice(places), chance.choice(places)
        end = min((place for place in places if place > other), default=len(pickled))
        piece = chance.choice((pickled[other:end], chance.choice(OPERATIONS)))
        cut = chance.choice((0, 0, 1, len(piece)))
        pickled = pickled[:at] + piece * chance.choice((1, 1, 1, 2, 30)) + pickled[at + cut :]
        places = [place for place in places if place <= at] or [0]
    return pickled


def _operations(pickled):
    """As far as they can be read."""
    found = []
    try:
        for one in pickletools.genops(pickled):
            found.append(one)
    except ValueError:
        pass
    return found


OPERATIONS = (
    *(
        b"(",
        b"0",
        b"1",
        b"2",
        b")",
        b"]",
        b"}",
        b"N",
        b"\x88",
        b"t",
        b"\x85",
        b"\x86",
        b"l",
        b"d",
        b"e",
        b"a",
        b"u",
        b"s",
    ),
    *(b"R", b"Q", b"b", b"o", b"\x81", b".", b"h\0", b"h\5", b"q\0", b"r\xff\xff\xff\x7f", b"j\0\0\0\x10", b"K\0"),
    *(
        b"J\xff\xff\xff\x7f",
        b"J\xff\xff\xff\xff",
        b"\x8a\x08" + b"\x7f" * 8,
        b"\x8b\xff\xff\xff\x7f",
        b"X\xff\xff\xff\x7f",
    ),
    *(b"cbuiltins\nbytearray\n", b"c__builtin__\nbytearray\n", b"ctorch\nTensor\n", b"ctorch\nFloatStorage\n"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"cos\nsystem\n", b"X\1\0\0\0a"),
)


CHANGES = (_flip, _flip, _overwrite, _overwrite, _cut, _repeat, _insert, _move)


def damaged_json(value, chance):
    """A copy of a JSON value in which something has another value or name, comes twice, lies deep, or is gone."""
    value = json.loads(json.dumps(value))
    for _ in range(chance.randint(1, 3)):
        holders = list(_holders(value))
        if not holders:
            break
        holder = chance.choice(holders)
        key = chance.choice(list(holder if isinstance(holder, dict) else range(len(holder))))
        change = chance.randrange(8)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, dict):
            holder[f"{key}_"] = holder.pop(key)
        elif change == 2 and isinstance(holder, list):
            holder.append(holder[key])
        elif change == 3:
            holder[key] = _of_another(value, chance)
        else:
            holder[key] = copy.deepcopy(chance.choice(VALUES))
    return value


def deep(text, chance):
    """JSON text in which some value is a list in a list in a list, a thousand times or a hundred thousand."""
    depth = chance.choice((50, 400, 1000, 100_000))
    return text.replace(b": ", b": " + b"[" * depth + b"]" * depth + b', "x": ', 1)


def _of_another(value, chance):
    """Something that another field holds: of a type that is right elsewhere."""
    holder = chance.choice(list(_holders(value)))
    found = chance.choice(list(holder.values() if isinstance(holder, dict) else holder))
    return json.loads(json.dumps(found))


def _holders(value):
    """Objects and lists with something in them."""
    if isinstance(value, dict | list) and value:
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)
