"""What a compiled program launches and moves, read off its text.

XLA's text of a compiled program lists what runs: fusions, single operations, loops. Each that is
more than a new name for an array is a kernel, which reads its operands from the device's main
memory and writes its results there. For what is bound by bandwidth that is the time. Not in the
text: caches that serve an operand twice, a sort's several passes, the padding of short rows.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Kernels, and bytes that they read from and write to the device's main memory."""

    kernels: int = 0
    bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.kernels + other.kernels, self.bytes + other.bytes)

    def times(self, count: int) -> Work:
        return Work(self.kernels * count, self.bytes * count)


def most(branches: Iterable[Work]) -> Work:
    return max(branches, key=lambda work: (work.bytes, work.kernels))


def least(branches: Iterable[Work]) -> Work:
    return min(branches, key=lambda work: (work.bytes, work.kernels))


@dataclass(frozen=True)
class Array:
    bytes: int
    # In another memory than the main one, such as a TPU's vector memory, S(1).
    elsewhere: bool

    @property
    def traffic(self) -> int:
        return 0 if self.elsewhere else self.bytes


@dataclass(frozen=True)
class Instruction:
    name: str
    results: tuple[Array, ...]
    operation: str
    arguments: str
    attributes: str
    root: bool

    @functools.cached_property
    def operands(self) -> tuple[str, ...]:
        return tuple(re.findall(r"%([\w.\-]+)", self.arguments))

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.results)

    def attribute(self, pattern: str) -> str:
        found = re.search(pattern, self.attributes)
        if found is None:
            raise ValueError(f"{self.operation} {self.name}: no {pattern} in {self.attributes}")
        return found.group(1)


Computation = dict[str, Instruction]


def computations_of(text: str) -> tuple[dict[str, Computation], str]:
    """Each computation's instructions by name, and the name of the one that is the program."""
    computations: dict[str, Computation] = {}
    entry, current = "", Computation()
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        header = re.match(r"(ENTRY )?%([\w.\-]+) \(.*\{$", line)
        if header:
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif re.match(r"  (ROOT )?%", line):
            instruction = _instruction(line)
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("this is no text of a compiled program: it has no ENTRY")
    return computations, entry


def _instruction(line: str) -> Instruction:
    found = re.match(r"  (ROOT )?%([\w.\-]+) = (.+?) ([a-z][a-z\d\-]*)\((.*)$", line)
    assert found, line
    root, name, shape, operation, rest = found.groups()
    # The arguments end with the parenthesis that closes theirs; layouts have parentheses too.
    depths = itertools.accumulate({"(": 1, ")": -1}.get(character, 0) for character in rest)
    end = next(place for place, depth in enumerate(depths) if depth < 0)
    return Instruction(
        name, arrays_of(shape), operation, rest[:end], rest[end + 1 :], root is not None
    )


def arrays_of(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape, such as `(f32[8,128]{1,0:T(8,128)S(1)}, s32[])`, in order."""
    found = re.findall(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\](?:\{([^}]*)\})?", shape)
    return tuple(
        Array(
            math.prod(map(int, filter(None, lengths.split(",")))) * int(bits or 8) // 8,
            "S(" in layout,
        )
        for _, bits, lengths, layout in found
    )


# Names for arrays that are there already.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
FREE_CALLS = re.compile('custom_call_target="(ConcatBitcast|AllocateBuffer)"')
RENAMING = {"bitcast", "reshape"}
IN_PLACE = {"dynamic-update-slice", "scatter"}
IN_PART = {"slice", "dynamic-slice", "gather"}
BODY = r"\bbody=%([\w.\-]+)"


class Program:
    """A compiled program, from its text (`compiled.as_text()`)."""

    def __init__(self, text: str) -> None:
        self.computations, self.entry = computations_of(text)

    def work(
        self,
        branch: Callable[[Iterable[Work]], Work] = most,
        turns: int | None = None,
        name: str = "",
    ) -> Work:
        """All that the program, or a computation of it, does, in loops as often as they turn.

        Of the branches of a condition the one that `branch` chooses is counted, and a loop whose
        length is the data's for as many turns as are given. What a TPU copies meanwhile is traffic
        and no kernel.
        """
        computation = self.computations[name or self.entry]
        total = Work()
        for instruction in computation.values():
            operation = instruction.operation
            if operation == "while":
                body = self.work(branch, turns, instruction.attribute(BODY))
                trips = self._trips(instruction, computation)
                if trips is None:
                    trips = turns
                if trips is None:
                    raise ValueError(
                        f"while {instruction.name} does not count up to a constant; say for how "
                        f"many turns to count it: {instruction.attributes}"
                    )
                total += body.times(trips)
            elif operation == "conditional":
                listed = r"((?:true_computation|branch_computations)=.*)"
                names = re.findall(r"%([\w.\-]+)", instruction.attribute(listed))
                total += branch(
                    [self.work(branch, turns, n) for n in names if n in self.computations]
                )
            elif operation in ("call", "async-start"):
                called = instruction.attribute(r"\b(?:to_apply|calls)=%([\w.\-]+)")
                total += self.work(branch, turns, called)
            elif operation.endswith("-start"):
                total += Work(0, _copied(instruction, computation))
            elif _runs(instruction):
                total += Work(1, self._kernel(instruction, computation).traffic())
        return total

    @property
    def open_loops(self) -> int:
        """How many loops there are whose length is the data's."""
        return sum(
            self._trips(instruction, computation) is None
            for computation in self.computations.values()
            for instruction in computation.values()
            if instruction.operation == "while"
        )

    def _trips(self, loop: Instruction, computation: Computation) -> int | None:
        """How often a loop turns; a TPU's text says it only by the counter's start and end."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known.group(1))
        condition = self.computations[loop.attribute(r"\bcondition=%([\w.\-]+)")]
        body = self.computations[loop.attribute(BODY)]
        test = _root(condition)
        if test.operation != "compare" or "direction=LT" not in test.attributes:
            return None
        counter, end = (condition[name] for name in test.operands)
        if counter.operation != "get-tuple-element" or end.operation != "constant":
            return None
        place = int(counter.attribute(r"\bindex=(\d+)"))
        start = computation[computation[loop.operands[0]].operands[place]]
        while start.operation == "copy":
            start = computation[start.operands[0]]
        step = [body[name] for name in body[_root(body).operands[place]].operands]
        by = [int(value.arguments) for value in step if value.operation == "constant"]
        if by != [1] or start.operation != "constant":
            return None
        return int(end.arguments) - int(start.arguments)

    def _kernel(self, instruction: Instruction, computation: Computation) -> Kernel:
        operands = {name: computation[name] for name in instruction.operands}
        if instruction.operation != "fusion":
            arguments = {name: name for name in operands}
            return Kernel(instruction, operands, {instruction.name: instruction}, arguments)
        inside = self.computations[instruction.attribute(r"\bcalls=%([\w.\-]+)")]
        arguments = {
            value.name: instruction.operands[int(value.arguments)]
            for value in inside.values()
            if value.operation == "parameter"
        }
        return Kernel(instruction, operands, inside, arguments)


def _root(computation: Computation) -> Instruction:
    """Its result: of a kernel that is one instruction, that one."""
    roots = [value for value in computation.values() if value.root]
    [root] = roots or computation.values()
    return root


def _runs(instruction: Instruction) -> bool:
    if instruction.operation == "custom-call":
        return FREE_CALLS.search(instruction.attributes) is None
    return instruction.operation not in FREE and not instruction.operation.endswith("-done")


def _copied(start: Instruction, computation: Computation) -> int:
    """What an asynchronous copy reads and writes: the results of others begin with operands."""
    target = start.results[0 if start.operation == "copy-start" else len(start.operands)]
    source = computation[start.operands[0]]
    return target.traffic + (target.bytes if any(a.traffic for a in source.results) else 0)


@dataclass(frozen=True)
class Kernel:
    """An instruction that runs, with those that are fused into it, or itself alone."""

    instruction: Instruction
    operands: Computation
    inside: Computation
    arguments: dict[str, str]  # The operand that a name inside stands for.

    def traffic(self) -> int:
        """Bytes read and written; of what is sliced, or updated in place, that part alone."""
        reads = dict.fromkeys(self.operands, 0)
        for name, operand in self.arguments.items():
            reads[operand] += self._read(name)
        total = 0
        for name, operand in self.operands.items():
            if any(array.traffic for array in operand.results):
                total += min(reads[name], operand.bytes)
        root = _root(self.inside)
        parts = root.operands if root.operation == "tuple" else (root.name,)
        results = self.instruction.results
        if len(parts) != len(results):
            return total + sum(array.traffic for array in results)
        written = zip(parts, results, strict=True)
        return total + sum(self._written(name) for name, array in written if array.traffic)

    def _bytes(self, name: str) -> int:
        return (self.inside.get(name) or self.operands[name]).bytes

    def _read(self, name: str) -> int:
        parts = 0
        for user in self.inside.values():
            if name not in user.operands:
                continue
            first_alone = user.operands[0] == name and name not in user.operands[1:]
            if user.operation in RENAMING:
                parts += self._read(user.name)
            elif user.operation in IN_PART and first_alone:
                parts += user.bytes
            elif not (user.operation in IN_PLACE and first_alone):
                return self._bytes(name)
        return min(parts, self._bytes(name))

    def _written(self, name: str) -> int:
        value = self.inside.get(name)
        if value is None or value.operation not in RENAMING | IN_PLACE:
            return self._bytes(name)
        base = value.operands[0]
        while base in self.inside and self.inside[base].operation in RENAMING:
            base = self.inside[base].operands[0]
        if value.operation in RENAMING:
            return self._written(base)
        # A scatter has its operands, the indices and as many updates; the other one update, and
        # where it goes.
        first, last = (len(value.operands) + 1) // 2, None
        if value.operation == "dynamic-update-slice":
            first, last = 1, 2
        updates = value.operands[first:last]
        before = 0 if base in self.arguments else self._written(base)
        return min(before + sum(map(self._bytes, updates)), value.bytes)
