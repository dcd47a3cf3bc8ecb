"""The bench's reading of compiled programs: what is launched and moved, checked by hand."""

import jax
import jax.numpy as jnp
import pytest

from bench.programs import Program, Work, arrays_of, least, most

pytestmark = pytest.mark.optimized

KILOBYTE = 1024  # f32[256]


def program(entry, others=""):
    """The work of a program with these lines as its ENTRY, of a f32[256] and an index."""
    head = "%x = f32[256]{0} parameter(0)\n  %i = s32[] parameter(1)"
    return Program(
        f"HloModule m\n\n{others}\nENTRY %main (x: f32[256], i: s32[]) -> f32[] {{\n"
        f"  {head}\n{entry}\n}}\n"
    )


def fused(name, *lines, shape="f32[256]"):
    return f"%{name} (p: f32[256], q: s32[]) -> {shape} {{\n" + "\n".join(
        ("  %p = f32[256]{0} parameter(0)", "  %q = s32[] parameter(1)", *lines, "}", "")
    )


def test_sizes_are_those_of_the_dtype_and_on_chip_memory_is_told_apart():
    arrays = arrays_of(
        "((f32[8,128]{1,0:T(8,128)}), bf16[4,3]{1,0:T(8,128)(2,1)S(1)}, pred[], s4[6])"
    )
    assert [array.bytes for array in arrays] == [4096, 24, 1, 3]
    assert [array.traffic for array in arrays] == [4096, 0, 1, 3]


def test_a_kernel_reads_its_operands_once_and_writes_its_result():
    entry = """  %twice = f32[256]{0} multiply(%x, %x), metadata={op_name="f(a, b)/mul"}
  %name = f32[16,16]{1,0} bitcast(%twice)
  ROOT %out = (f32[16,16]{1,0}, s32[]) tuple(%name, %i)"""
    assert program(entry).work() == Work(1, 2 * KILOBYTE)


def test_a_fusion_is_one_kernel_whatever_it_computes_inside():
    inside = fused(
        "f",
        "  %exp = f32[256]{0} exponential(%p)",
        "  %sum = f32[256]{0} add(%exp, %p)",
        "  ROOT %both = (f32[256]{0}, f32[256]{0}) tuple(%exp, %sum)",
    )
    entry = "  ROOT %r = (f32[256]{0}, /*index=1*/f32[256]{0}) fusion(%x, %i), kind=kLoop, calls=%f"
    # The index is an operand that no instruction inside uses.
    assert program(entry, inside).work() == Work(1, 3 * KILOBYTE)


@pytest.mark.parametrize(
    "line, moved",
    [
        ("f32[8]{0} dynamic-slice(%x, %i), dynamic_slice_sizes={8}", 32 + 4 + 32),
        ("f32[8]{0} slice(%x), slice={[0:8]}", 32 + 32),
        ("f32[1]{0} gather(%x, %i), offset_dims={0}", 4 + 4 + 4),
        # The slice that is read as an index is read whole.
        ("f32[1]{0} gather(%x, %x), offset_dims={0}", KILOBYTE + 4),
    ],
)
def test_of_what_is_sliced_the_part_counts(line, moved):
    assert program(f"  ROOT %r = {line}").work() == Work(1, moved)
    operands = "p, %q".join(line.split("x, %i")) if "x, %i" in line else line.replace("%x", "%p")
    inside = fused("f", f"  ROOT %s = {operands}")
    shape = line.split(" ")[0]
    entry = f"  ROOT %r = {shape} fusion(%x, %i), kind=kLoop, calls=%f"
    assert program(entry, inside).work() == Work(1, moved)


def test_of_what_is_sliced_and_read_whole_the_whole_counts():
    inside = fused(
        "f",
        "  %part = f32[8]{0} slice(%p), slice={[0:8]}",
        "  %whole = f32[] reduce(%p, %q), dimensions={0}, to_apply=%add",
        "  ROOT %both = (f32[8]{0}, f32[]) tuple(%part, %whole)",
    )
    entry = "  ROOT %r = (f32[8]{0}, f32[]) fusion(%x, %i), kind=kInput, calls=%f"
    assert program(entry, inside).work() == Work(1, KILOBYTE + 4 + 32 + 4)


UPDATE = "  %part = f32[8]{0} constant({1, 2, 3, 4, 5, 6, 7, 8})"


def test_what_is_updated_in_place_is_neither_read_nor_written_elsewhere():
    inside = fused(
        "f",
        UPDATE,
        "  %d = f32[256]{0} dynamic-update-slice(%p, %part, %q)",
        "  ROOT %b = f32[16,16]{1,0} bitcast(%d)",
    )
    entry = "  ROOT %r = f32[16,16]{1,0} fusion(%x, %i), kind=kLoop, calls=%f"
    assert program(entry, inside).work() == Work(1, 4 + 32)
    scatter = "  ROOT %s = f32[256]{0} scatter(%x, %i, %x.1), to_apply=%add"
    update = "  %x.1 = f32[8]{0} copy-done(%x)"
    assert program(f"{update}\n{scatter}").work() == Work(1, 4 + 32 + 32)


def test_an_update_of_what_is_computed_inside_writes_all_of_it():
    inside = fused(
        "f",
        UPDATE,
        "  %e = f32[256]{0} exponential(%p)",
        "  ROOT %d = f32[256]{0} dynamic-update-slice(%e, %part, %q)",
    )
    entry = "  ROOT %r = f32[256]{0} fusion(%x, %i), kind=kLoop, calls=%f"
    assert program(entry, inside).work() == Work(1, 2 * KILOBYTE + 4)


LOOP = """%body (t: (s32[], f32[256])) -> (s32[], f32[256]) {
  %t = (s32[], f32[256]{0}) parameter(0)
  %n = s32[] get-tuple-element(%t), index=0
  %v = f32[256]{0} get-tuple-element(%t), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%n, %one)
  %e = f32[256]{0} exponential(%v)
  ROOT %out = (s32[], f32[256]{0}) tuple(%next, %e)
}

%condition (t: (s32[], f32[256])) -> pred[] {
  %end = s32[] constant(12)
  %t = (s32[], f32[256]{0}) parameter(0)
  %n = s32[] get-tuple-element(%t), index=0
  ROOT %less = pred[] compare(%n, %end), direction=LT
}
"""
A_TURN = Work(2, 2 * KILOBYTE + 3 * 4)


@pytest.mark.parametrize(
    "start, known, trips",
    [
        ("%i", ', backend_config={"known_trip_count":{"n":"7"}}', 7),
        ("%two", "", 10),
    ],
)
def test_a_loop_counts_as_often_as_it_turns(start, known, trips):
    entry = f"""  %two = s32[] constant(2)
  %first = (s32[], f32[256]{{0}}) tuple({start}, %x)
  ROOT %w = (s32[], f32[256]{{0}}) while(%first), condition=%condition, body=%body{known}"""
    assert program(entry, LOOP).work() == A_TURN.times(trips)


def test_a_loop_of_unknown_length_is_refused():
    entry = """  %first = (s32[], f32[256]{0}) tuple(%i, %x)
  ROOT %w = (s32[], f32[256]{0}) while(%first), condition=%condition, body=%body"""
    with pytest.raises(ValueError, match="while w does not count up to a constant"):
        program(entry, LOOP).work()


def test_a_loop_of_the_data_is_counted_for_the_turns_that_are_given():
    # It begins where an argument says.
    entry = """  %first = (s32[], f32[256]{0}) tuple(%i, %x)
  ROOT %w = (s32[], f32[256]{0}) while(%first), condition=%condition, body=%body"""
    assert program(entry, LOOP).open_loops == 1
    assert program(entry, LOOP).work(turns=3) == A_TURN.times(3)


def test_of_a_condition_one_branch_counts():
    branches = fused("much", "  ROOT %e = f32[256]{0} exponential(%p)") + fused(
        "little", "  ROOT %same = f32[256]{0} bitcast(%p)"
    )
    for names in (
        "branch_computations={%much, %little}",
        "true_computation=%much, false_computation=%little",
    ):
        entry = (
            f'  ROOT %c = f32[256]{{0}} conditional(%i, %x, %x), {names}, metadata={{op_name="c"}}'
        )
        assert program(entry, branches).work(most) == Work(1, 2 * KILOBYTE)
        assert program(entry, branches).work(least) == Work()


def test_what_is_copied_meanwhile_is_traffic_and_no_kernel():
    entry = """  %start = (f32[256]{0:S(1)}, f32[256]{0}, u32[]{:S(2)}) copy-start(%x)
  %near = f32[256]{0:S(1)} copy-done(%start)
  %part = ((f32[256]{0}), f32[64]{0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:64]}
  %some = f32[64]{0:S(1)} slice-done(%part)
  %alike = f32[256]{0:S(1)} custom-call(%some), custom_call_target="ConcatBitcast"
  %e = f32[256]{0:S(1)} exponential(%near)
  ROOT %far = f32[256]{0} add(%e, %alike)"""
    # A copy and a slice are read, and one sum is written; all else stays on the chip.
    assert program(entry).work() == Work(2, KILOBYTE + KILOBYTE // 4 + KILOBYTE)


def test_a_program_compiled_here_moves_what_its_formula_says():
    def steps(x):
        return jax.lax.scan(lambda carry, _: (jnp.cos(carry * x), None), x, length=5)[0]

    text = jax.jit(steps).lower(jnp.zeros(4096)).compile().as_text()
    work = Program(text).work()
    # In each step two arrays are read and one is written; besides, loops copy what they start from.
    assert 5 * 3 * 16384 <= work.bytes <= (5 * 3 + 4) * 16384 + 1000
    assert work.kernels >= 5


def test_no_program_is_refused():
    with pytest.raises(ValueError, match="no text of a compiled program"):
        Program("module @jit_f {}")
