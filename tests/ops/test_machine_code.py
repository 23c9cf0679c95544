"""Counting in a compiled kernel: the graph of its branches, and bytes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

# Two loops, the second with two ways through it; a call that only a warp come apart makes; padding.
CODE = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;                 /* 0x00000a00 */
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;       /* 0x00000a00 */
        /*0020*/                   IADD3 R0, R0, 0x1, RZ ;                /* 0x00000a00 */
        /*0030*/                   BRA.DIV UR4, 0xc0 ;                    /* 0x00000a00 */
        /*0040*/               @P0 BRA 0x20 ;                             /* 0x00000a00 */
        /*0050*/               @P1 BRA 0x70 ;                             /* 0x00000a00 */
        /*0060*/                   STS.U8 [R4], R6 ;                      /* 0x00000a00 */
        /*0070*/                   FADD R5, R5, 1 ;                       /* 0x00000a00 */
        /*0080*/              @!P1 BRA 0x50 ;                             /* 0x00000a00 */
        /*0090*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;          /* 0x00000a00 */
        /*00a0*/              @!P2 STG.E.U16 desc[UR4][R2.64], R4 ;       /* 0x00000a00 */
        /*00b0*/                   EXIT ;                                 /* 0x00000a00 */
        /*00c0*/                   WARPSYNC.COLLECTIVE R1, 0x40 ;         /* 0x00000a00 */
        /*00d0*/                   BRA 0x40 ;                             /* 0x00000a00 */
        /*00e0*/                   BRA 0xe0;                              /* 0x00000a00 */
        /*00f0*/                   NOP;                                   /* 0x00000a00 */
"""


@pytest.fixture(scope="module")
def sass() -> ModuleType:
    pytest.importorskip("triton")
    place = Path(__file__).resolve().parents[2] / "benchmarks" / "machine_code.py"
    spec = importlib.util.spec_from_file_location("sass", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sass"] = module
    spec.loader.exec_module(module)
    return module


def test_loops_are_found_and_what_whole_warps_never_reach_is_not_counted(
    sass: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sass, "dump", lambda cubin: (" REG:20 STACK:8 SHARED:0 ", CODE))
    found = sass.count(b"")
    assert found["loop_instructions"] == [2, 4]
    assert found["other_instructions"] == 5
    assert (found["registers"], found["spilled_bytes"], found["barriers"]) == (20, 8, 1)
    assert (found["global_read_bytes"], found["global_written_bytes"]) == (16, 2)
    assert found["shared_bytes_moved"] == 1


def test_a_card_starts_what_its_data_sheet_allows(sass: ModuleType) -> None:
    a100 = sass.CARDS["A100"]
    assert a100.clock == pytest.approx(1.41e9, rel=1e-3)  # the white paper's boost clock
    assert 32 * a100.issued == pytest.approx(a100.flops)  # 128 a tick, 64 lanes of two
