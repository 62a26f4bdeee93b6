# SPDX-License-Identifier: Apache-2.0
"""Pickles that run code where Python unpickles them, and pickles that cost hours or gigabytes."""

import struct

from tests.weights.formats.pickle_code import (
    FLOATS,
    ORDERED_DICT,
    REBUILD,
    call,
    dict_of,
    keep,
    list_of,
    name,
    number,
    recall,
    storage,
    tensor,
    text,
    tuple_of,
)

CANARY = "canary"
"""The folder that the code in the pickles makes."""

EXTENSION = 240
"""The code of ``os.mkdir`` in the registry of ``copyreg``."""

MKDIR, PATH = name("os", "mkdir"), text(CANARY)
ATTACK = call(MKDIR, PATH)
PROCESS = name("subprocess", "Popen")
COMMAND = list_of(text("mkdir"), PATH)
GETATTR = name("builtins", "getattr")
IMPORT = name("importlib", "import_module")
PARTIAL = name("functools", "partial")
TO_BYTES = name("_codecs", "encode")
LATIN1 = text("latin1")
NAMESPACE = name("argparse", "Namespace")
NUMPY_NUMBER = name("numpy.core.multiarray", "scalar")
NUMPY_DTYPE = name("numpy", "dtype")
F8 = call(NUMPY_DTYPE, text("f8"), b"\x89", b"\x88")


def programs(old: bool = False) -> dict[str, bytes]:
    """Code of pickles that make the canary, by the way they take.

    Args:
        old: with persistent ids as before PyTorch 1.6.
    """
    expression = text(f"__import__('os').mkdir({CANARY!r})")
    inner = "\x80\x02" + ATTACK.decode("latin1") + "."
    os_module = call(IMPORT, text("os"))
    one = tuple_of(number(1))
    weights = tensor((1,), old=old)
    calls = {
        "os.mkdir": ATTACK,
        "posix.mkdir": call(name("posix", "mkdir"), PATH),
        "os.system": call(name("os", "system"), text(f"mkdir {CANARY}")),
        "subprocess": call(name("subprocess", "call"), COMMAND),
        "eval": call(name("builtins", "eval"), expression),
        "eval of Python 2": call(name("__builtin__", "eval"), expression),
        "exec by getattr": call(
            call(GETATTR, call(IMPORT, text("builtins")), text("exec")), expression
        ),
        "__import__": call(
            call(GETATTR, call(name("builtins", "__import__"), text("os")), text("mkdir")), PATH
        ),
        "timeit": call(name("timeit", "timeit"), expression),
        "a pickle in a pickle": call(name("_pickle", "loads"), call(TO_BYTES, text(inner), LATIN1)),
        "methodcaller": call(
            call(name("operator", "methodcaller"), text("mkdir"), PATH), os_module
        ),
        "attrgetter": call(call(name("operator", "attrgetter"), text("mkdir")), os_module)
        + tuple_of(PATH)
        + b"R",
        "partial": call(call(PARTIAL, MKDIR, PATH)),
        "map": call(name("builtins", "list"), call(name("builtins", "map"), MKDIR, list_of(PATH))),
    }
    operations = {
        "NEWOBJ": PARTIAL + tuple_of(MKDIR, PATH) + b"\x81)R",
        "NEWOBJ_EX": PARTIAL + tuple_of(MKDIR, PATH) + b"}\x92)R",
        "BUILD": PARTIAL
        + tuple_of(name("builtins", "len"))
        + b"\x81"
        + tuple_of(MKDIR, tuple_of(PATH), b"}", b"N")
        + b"b)R",
        "INST": b"(" + PATH + b"ios\nmkdir\n",
        "OBJ": b"(" + PROCESS + COMMAND + b"o",
        "EXT1": b"\x82" + bytes([EXTENSION]) + tuple_of(PATH) + b"R",
        "EXT2": b"\x83" + struct.pack("<H", EXTENSION) + tuple_of(PATH) + b"R",
        "EXT4": b"\x84" + struct.pack("<i", EXTENSION) + tuple_of(PATH) + b"R",
        "STACK_GLOBAL": text("os") + text("mkdir") + b"\x93" + tuple_of(PATH) + b"R",
        "STACK_GLOBAL by the memo": text("os")
        + b"\x94"
        + text("mkdir")
        + b"\x94h\x00h\x01\x93"
        + tuple_of(PATH)
        + b"R",
        "strings as text": b"cos\nmkdir\n(V" + CANARY.encode() + b"\ntR",
        "DUP and POP": MKDIR + b"20" + tuple_of(PATH) + b"R",
    }
    places = {
        "in a key": b"}" + ATTACK + b"Ns",
        "in a state dict": dict_of({"a": ATTACK, "b": weights}),
        "in metadata": call(ORDERED_DICT) + dict_of({"_metadata": ATTACK}) + b"b",
        "in hooks": call(REBUILD, storage(1, old=old), number(0), one, one, b"\x89", ATTACK),
        "in a shape": call(REBUILD, storage(1, old=old), number(0), tuple_of(ATTACK)),
        "in a persistent id": tuple_of(text("storage"), FLOATS, text("0"), PATH, ATTACK) + b"Q",
        "not in the value": b"(" + ATTACK + dict_of({"a": b"N"}) + b"t",
        "in a Namespace": NAMESPACE + b")\x81" + dict_of({"a": ATTACK}) + b"b",
        "in a NumPy number": call(NUMPY_NUMBER, F8, ATTACK),
        "in bytes": call(TO_BYTES, text("x"), ATTACK),
    }
    return {**calls, **operations, **places}


def costs() -> dict[str, bytes]:
    """Code of pickles that are small and cost much where they are read or walked through."""
    many = 50_000
    twice = [number(1) + keep(0)]
    twice += [recall(i) + recall(i) + b"\x86" + keep(i + 1) for i in range(40)]
    modulus = 2**61 - 1  # Python's hashes of whole numbers are their remainders
    key = "k" * 4_000_000
    pairs = list_of(*(tuple_of(number(i), b"N") for i in range(5000)))
    ladder = [b"]" * 60 + b"a" * 59 + keep(0)]
    ladder += [b"]" * 60 + recall(i) + b"a" * 60 + keep(i + 1) for i in range(1000)]
    return {
        "8 GB of zeros": call(name("builtins", "bytearray"), number(8 << 30)),
        "bytes of a number": call(name("builtins", "bytes"), number(8 << 30)),
        "a range": call(name("builtins", "list"), call(name("builtins", "range"), number(1 << 40))),
        "2**40 leaves": list_of(*twice),
        "a key of 2**40 leaves": list_of(*twice, b"}" + recall(40) + b"Ns"),
        "50,000 deep": b"]" * many + b"a" * (many - 1),
        "60,000 deep, in steps": list_of(*ladder),
        "a list in itself": b"]" + keep(0) + recall(0) + b"a",
        "a dict in itself": b"}" + keep(0) + text("a") + recall(0) + b"s",
        "a tuple in itself": b"]" + keep(0) + recall(0) + b"\x85" + keep(1) + recall(1) + b"\x86a",
        "keys of one hash": b"}("
        + b"".join(number(i * modulus) + b"N" for i in range(1, many))
        + b"u",
        "long keys compared": list_of(
            text(key) + keep(0),
            text(key) + keep(1),
            b"}" + (recall(0) + b"Ns" + recall(1) + b"Ns") * 50_000,
        ),
        "a dict copied again and again": list_of(
            pairs + keep(0), call(ORDERED_DICT, recall(0)) * 20_000
        ),
        "bytes copied again and again": list_of(
            text("x" * 1_000_000) + keep(0), call(TO_BYTES, recall(0), LATIN1) * 5000
        ),
        "a Namespace filled again and again": list_of(
            b"}(" + b"".join(text(str(i)) + b"N" for i in range(5000)) + b"u" + keep(0),
            NAMESPACE + b")\x81" + (recall(0) + b"b") * 20_000,
        ),
        "a text of digits": call(name("builtins", "int"), text("9" * 4_000_000)),
        "a codec that compresses": call(TO_BYTES, text("x" * 1_000_000), text("zlib")),
        "2,100,000 operations": list_of(b"N" * 2_100_000),
        "1,900,000 dicts": list_of(b"}" * 1_900_000),
        "a call with many values": list_of(
            b"(" + b"N" * 100_000 + b"t" + keep(0), (REBUILD + recall(0) + b"R") * 20_000
        ),
        "a pickle of 20 MB": text("x" * 20_000_000),
    }


def values(old: bool = False) -> dict[str, bytes]:
    """Code of values that are neither tensors nor plain, or that cannot be."""

    def alone(*arguments: object, **options: object) -> bytes:
        return dict_of({"a": tensor(*arguments, old=old, **options)})  # type: ignore[arg-type]

    one, hooks = tuple_of(number(1)), call(ORDERED_DICT)
    return {
        "a name alone": dict_of({"a": REBUILD}),
        "a storage alone": dict_of({"a": storage(1, old=old)}),
        "a storage class alone": dict_of({"a": FLOATS}),
        "a name with an escape": name("os\x1b[2J", "system"),
        "a name without end": b"c" + b"x" * 100_000,
        "a tensor of 2**40 zeros": alone((2**20, 2**20), (0, 0), stored=1),
        "a tensor beyond its storage": alone((1000,), stored=1),
        "a tensor from beyond": alone((1,), offset=2**40),
        "a tensor before its storage": alone((1,), offset=-1),
        "a tensor of negative strides": alone((1,), (-1,)),
        "a tensor of 2**62": alone((2**31, 2**31), (1, 2**31), stored=1),
        "a tensor of 1000 dimensions": alone((1,) * 1000),
        "a tensor of too few strides": alone((1, 1), (1,)),
        "a storage of 2**40": alone((1,), stored=2**40),
        "a storage of 2**2000": alone((1,), stored=2**2000),
        "a storage without bytes": alone((1,), key="1"),
        "a storage of another folder": alone((1,), key="../data/0"),
        "a storage of two sizes": dict_of(
            {"a": tensor((1,), old=old), "b": tensor((1,), stored=2, old=old)}
        ),
        "a storage of two types": dict_of(
            {"a": tensor((1,), old=old), "b": storage(1, kind=name("torch", "IntStorage"), old=old)}
        ),
        "a meta tensor": call(
            name("torch._utils", "_rebuild_meta_tensor_no_storage"),
            name("torch", "float32"),
            tuple_of(number(2**60)),
            one,
            b"\x89",
        ),
        "a sparse tensor": call(
            name("torch._utils", "_rebuild_sparse_tensor"),
            call(name("torch.serialization", "_get_layout"), text("torch.sparse_coo")),
            b")",
        ),
        "a parameter with state": call(
            name("torch._utils", "_rebuild_parameter_with_state"),
            tensor((1,), old=old),
            b"\x88",
            hooks,
            dict_of({"data": b"N"}),
        ),
        "a subclass": call(
            name("torch._tensor", "_rebuild_from_type_v2"),
            REBUILD,
            name("torch", "Tensor"),
            b")",
            b"}",
        ),
        "a tensor of a class": name("torch", "Tensor") + b")\x81",
        "a tensor with hooks": call(
            REBUILD, storage(1, old=old), number(0), one, one, b"\x89", dict_of({"a": b"N"})
        ),
        "a dict with other methods": hooks + dict_of({"items": b"N"}) + b"b",
        "a class as persistent id": tuple_of(text("module"), ORDERED_DICT, text("f.py"), text("x"))
        + b"Q",
        "a text as persistent id": text("0") + b"Q",
        "a number as persistent id": number(0) + b"Q",
        "nothing as persistent id": b")Q",
        "a persistent id in text": b"P0\n",
        "a numpy array": call(
            name("numpy.core.multiarray", "_reconstruct"),
            name("numpy", "ndarray"),
            tuple_of(number(0)),
            text("b"),
        ),
        "a dtype of objects": call(NUMPY_DTYPE, text("O8"), b"\x89", b"\x88"),
        "a dtype of fields": F8 + tuple_of(number(3), text("<"), text("a"), text("a"), b"}") + b"b",
        "a number without bytes": call(NUMPY_NUMBER, F8, call(TO_BYTES, text("x"), LATIN1)),
        "a Namespace that is called": call(NAMESPACE),
        "a Namespace of something": NAMESPACE + one + b"\x81",
        "a module": call(name("torch.nn.modules.linear", "Linear"), number(1), number(1)),
        "two values": b"}}",
        "no value": b"",
        "an unfinished dict": b"}(",
        "a value for no key": b"}(" + text("a") + b"u",
        "an item of no list": b"NNa",
        "an unknown operation": b"\xff}",
        "a set": b"\x8f",
        "a bytearray of 2**40": b"\x96" + struct.pack("<Q", 1 << 40),
        "bytes of 2**40": b"\x8e" + struct.pack("<Q", 1 << 40),
        "a text of 4 GB": b"X" + struct.pack("<I", 2**32 - 1),
        "a text that is none": b"X" + struct.pack("<I", 1) + b"\xff",
        "a number of 2 GB": b"\x8b" + struct.pack("<i", 2**31 - 1),
        "protocol 5": b"\x80\x05}",
    }
