"""Whether memory still holds what it held, as LLVM IR text.

int64_t mapsto_same(Table*)     1 where all does, else 0

Of whole pages there are sums, in which each 64-bit word has an odd weight of its own (1, 3, 5, ...), so that no single
change and no exchange of words goes unseen. What is behind them is kept, and compared byte by byte.

The weights take no multiplications: with s1 the sums of all vectors of a page and s2 the sums of s1 after each vector,
vector j of n counts n - j times in s2, and lane l of a vector of 8 words has the weight 16 j + 2 l + 1, which gives
(16 n + 2 l + 1) s1 - 16 s2. So the instructions that every processor of the architecture has keep pace with memory.

All words are 8 bytes; `same.py` fills them.
"""

from __future__ import annotations

PAGE = 1 << 12
# An entry: words. The table is their number, and then they.
ENTRY_AT, ENTRY_PAGES, ENTRY_SUMS, ENTRY_REST, ENTRY_KEPT, ENTRY_WORDS = range(6)

_LANES = 8
_VECTORS = PAGE // (8 * _LANES)
_AT_ONCE = 8


def same_ir() -> str:
    """The function, for any architecture."""
    factors = ", ".join(f"i64 {16 * _VECTORS + 2 * lane + 1}" for lane in range(_LANES))
    return _BODY.replace("@STEPS@", _steps()).replace("@LAST@", str(_AT_ONCE)).replace("@FACTORS@", factors)


def _steps() -> str:
    """Sums of the next vectors of a page."""
    lines = []
    for k in range(_AT_ONCE):
        lines += [
            f"%p{k} = getelementptr i8, ptr %here, i64 {8 * _LANES * k}",
            f"%x{k} = load <8 x i64>, ptr %p{k}, align 1",
            f"%a{k + 1} = add <8 x i64> %a{k}, %x{k}",
            f"%b{k + 1} = add <8 x i64> %b{k}, %a{k + 1}",
        ]
    return "\n  ".join(lines)


_BODY = f"""
declare i32 @memcmp(ptr, ptr, i64)
declare i64 @llvm.vector.reduce.add.v8i64(<8 x i64>)

define i64 @mapsto_same(ptr %table) {{
begin:
  %count = load i64, ptr %table
  br label %entries
entries:
  %entry = phi i64 [ 0, %begin ], [ %entry.next, %held ]
  %more = icmp ult i64 %entry, %count
  br i1 %more, label %taken, label %same
taken:
  %word = mul i64 %entry, {ENTRY_WORDS}
  %first = getelementptr i64, ptr %table, i64 1
  %row = getelementptr i64, ptr %first, i64 %word
  %at.place = getelementptr i64, ptr %row, i64 {ENTRY_AT}
  %at = load ptr, ptr %at.place
  %pages.place = getelementptr i64, ptr %row, i64 {ENTRY_PAGES}
  %pages = load i64, ptr %pages.place
  %sums.place = getelementptr i64, ptr %row, i64 {ENTRY_SUMS}
  %sums = load ptr, ptr %sums.place
  br label %pages.begin
pages.begin:
  %page = phi i64 [ 0, %taken ], [ %page.next, %page.held ]
  %offset = mul i64 %page, {PAGE}
  %start = getelementptr i8, ptr %at, i64 %offset
  %is.page = icmp ult i64 %page, %pages
  br i1 %is.page, label %vectors, label %rest
vectors:
  %here = phi ptr [ %start, %pages.begin ], [ %here.next, %vectors ]
  %left = phi i64 [ {_VECTORS}, %pages.begin ], [ %left.next, %vectors ]
  %a0 = phi <8 x i64> [ zeroinitializer, %pages.begin ], [ %a{_AT_ONCE}, %vectors ]
  %b0 = phi <8 x i64> [ zeroinitializer, %pages.begin ], [ %b{_AT_ONCE}, %vectors ]
  @STEPS@
  %here.next = getelementptr i8, ptr %here, i64 {8 * _LANES * _AT_ONCE}
  %left.next = sub i64 %left, @LAST@
  %on = icmp ne i64 %left.next, 0
  br i1 %on, label %vectors, label %page.end
page.end:
  %weighted = mul <8 x i64> %a{_AT_ONCE}, <@FACTORS@>
  %twice = shl <8 x i64> %b{_AT_ONCE}, splat (i64 4)
  %lanes = sub <8 x i64> %weighted, %twice
  %sum = call i64 @llvm.vector.reduce.add.v8i64(<8 x i64> %lanes)
  %sum.place = getelementptr i64, ptr %sums, i64 %page
  %was = load i64, ptr %sum.place
  %page.next = add i64 %page, 1
  %page.same = icmp eq i64 %sum, %was
  br i1 %page.same, label %page.held, label %other
page.held:
  br label %pages.begin
rest:
  %rest.place = getelementptr i64, ptr %row, i64 {ENTRY_REST}
  %bytes = load i64, ptr %rest.place
  %kept.place = getelementptr i64, ptr %row, i64 {ENTRY_KEPT}
  %kept = load ptr, ptr %kept.place
  %differs = call i32 @memcmp(ptr %start, ptr %kept, i64 %bytes)
  %rest.same = icmp eq i32 %differs, 0
  br i1 %rest.same, label %held, label %other
held:
  %entry.next = add i64 %entry, 1
  br label %entries
same:
  ret i64 1
other:
  ret i64 0
}}
"""
