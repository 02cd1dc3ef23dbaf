"""What a file of pickles would import and call, read by the standard library's disassembler: nothing is unpickled."""

from __future__ import annotations

import mmap
import pickletools
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

MOST_PICKLES = 16  # that torch's old form has behind one another: five
MOST_BYTES = 1 << 28  # of a pickle inside an archive: a checkpoint's, without the tensors' bytes, has some megabytes
LOOKED_AT = 4096  # bytes that tell text
# Of torch.jit's archives, which hold programs beside the weights.
PROGRAM = "constants.pkl"
# Of an archive that is cut, broken, encrypted or packed in unknown ways: what was read stands, the caller refuses it.
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError)
MARK = object()  # what MARK pushes


@dataclass(frozen=True)
class Looked:
    """names: `module.name` of what it would import, in its order; protocol: the highest of its pickles'.

    whole: a pickle was there from its first byte to its end; text: it is none, but printable text; program: an archive
    of torch.jit's.
    """

    names: tuple[str, ...] = ()
    protocol: int = 0
    whole: bool = False
    text: bool = False
    program: bool = False


def look(path: Path) -> Looked:
    """What a file that may be a pickle, several, or a zip of them (torch.save's form) would import."""
    with path.open("rb") as file:
        head = file.read(LOOKED_AT)
        if not head:
            return Looked()
        if zipfile.is_zipfile(path):
            return _archive(path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            names, protocol, whole = _pickles(content)
    return Looked(names, protocol, whole, text=not whole and _printable(head))


def _archive(path: Path) -> Looked:
    names: list[str] = []
    protocol, whole, program = 0, False, False
    with suppress(*BROKEN), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            last = member.filename.rsplit("/", 1)[-1]
            program |= last == PROGRAM
            if last.endswith(".pkl") and member.file_size <= MOST_BYTES:
                found, highest, complete = _pickles(BytesIO(archive.read(member)))
                names += found
                protocol, whole = max(protocol, highest), whole or complete
    return Looked(tuple(names), protocol, whole, program=program)


def _pickles(content: Any) -> tuple[tuple[str, ...], int, bool]:
    """Names, highest protocol, and whether the first of the pickles behind one another has an end."""
    names: list[str] = []
    protocol = 0
    for number in range(MOST_PICKLES):
        found, highest, whole = _one(content)
        names += found
        protocol = max(protocol, highest)
        if not whole:
            return tuple(names), protocol, number > 0
    return tuple(names), protocol, True


def _one(content: IO[bytes]) -> tuple[list[str], int, bool]:
    """One pickle: its instructions are followed as far as the stack holds text, which is what names are made of."""
    names: list[str] = []
    protocol = 0
    stack: list[object] = []
    memo: dict[object, object] = {}
    try:
        for code, argument, _ in pickletools.genops(content):
            name = code.name
            if name == "PROTO":
                protocol = max(protocol, argument or 0)
            elif name in ("GLOBAL", "INST"):
                names.append(".".join(str(argument).split(" ", 1)))
            elif name == "STACK_GLOBAL":
                names.append(".".join(each if isinstance(each, str) else "?" for each in ([None] * 2 + stack)[-2:]))
            elif name in ("EXT1", "EXT2", "EXT4"):
                names.append(f"copyreg extension {argument}")
            if name == "MEMOIZE":
                memo[len(memo)] = stack[-1] if stack else None
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1] if stack else None
            pushed = _pushed(name, argument, stack, memo, len(code.stack_after))
            _popped(code, stack)
            stack += pushed
    except Exception:  # no pickle, or cut: the disassembler has no error of its own, and what it read stands
        return names, protocol, False
    return names, protocol, True


def _pushed(name: str, argument: object, stack: list[object], memo: dict[object, object], count: int) -> list[object]:
    if name == "MARK":
        return [MARK]
    if name in ("GET", "BINGET", "LONG_BINGET"):
        return [memo.get(argument)]
    if name in ("MEMOIZE", "DUP"):
        return [stack[-1] if stack else None] * count
    return [argument if isinstance(argument, str) else None] * count


def _popped(code: pickletools.OpcodeInfo, stack: list[object]) -> None:
    before = code.stack_before
    if pickletools.markobject in before or (code.name == "POP" and stack and stack[-1] is MARK):
        while stack and stack.pop() is not MARK:
            pass
        before = before[: before.index(pickletools.markobject)] if pickletools.markobject in before else []
    del stack[max(len(stack) - len(before), 0) :]


def _printable(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else a character that the look cut
            return False
        text = head[: error.start].decode("utf-8")
    return all(each.isprintable() or each in "\t\r\n\f" for each in text)
