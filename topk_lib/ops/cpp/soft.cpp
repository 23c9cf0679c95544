// Soft top-k of rows: soft_row.h, compiled for each set of instructions, and which of these runs.
#include "soft.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "hard.h"
#include "keys.h"

namespace topk {
namespace {

using std::uint16_t;
using std::uint32_t;
using std::uint64_t;

// By the width of the arithmetic's numbers (float32, float64) and the link.
struct Code {
    void (*soft[2][4])(const Soft&, int64_t, int64_t, void*);
    void (*backward[2][4])(const SoftBackward&, int64_t, int64_t, void*);
    void (*exponential[2])(const void*, void*, int64_t);
};

namespace any {
#define TARGET
#define BYTES 16
#include "lanes.h"
#include "soft_row.h"
#undef TARGET
#undef BYTES
}  // namespace any

#if defined(__GNUC__) && defined(__x86_64__)
namespace avx2 {
#define TARGET __attribute__((target("avx2,fma,popcnt")))
#define BYTES 32
#include "lanes.h"
#include "soft_row.h"
#undef TARGET
#undef BYTES
}  // namespace avx2

namespace avx512 {
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma,popcnt")))
#define BYTES 64
#include "lanes.h"
#include "soft_row.h"
#undef TARGET
#undef BYTES
}  // namespace avx512

const Code* const codes[] = {&any::code, &avx2::code, &avx512::code};
#else
const Code* const codes[] = {&any::code};
#endif

// Scores of 16 bits are worked on as float32, in a row of memory; for others that of the result will do.
template <class Job, class Run>
bool with_row(const Job& job, int64_t begin, int64_t end, Run run) {
    void* work = nullptr;
    if (job.in.kind < 2 && !(work = std::malloc(std::size_t(job.in.n) * sizeof(float)))) return false;
    run(job, begin, end, work);
    std::free(work);
    return true;
}

}  // namespace

bool soft_rows(const Soft& job, int64_t begin, int64_t end) {
    return with_row(job, begin, end, codes[level_in_use()]->soft[job.in.kind == 3][job.in.link]);
}

bool soft_backward_rows(const SoftBackward& job, int64_t begin, int64_t end) {
    return with_row(job, begin, end, codes[level_in_use()]->backward[job.in.kind == 3][job.in.link]);
}

void exponentials(const void* numbers, void* out, int64_t n, bool wide) {
    codes[level_in_use()]->exponential[wide](numbers, out, n);
}

}  // namespace topk
