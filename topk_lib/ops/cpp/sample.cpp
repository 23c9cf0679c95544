// Drawing one of the k most likely entries of each row: sample_topk of topk_lib/ops/sample.py, in its steps.
#include "sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

namespace topk {
namespace {

using std::int64_t;
using std::uint64_t;

double score(const Hard& job, int64_t at) {
    if (job.kind == 3) return static_cast<const double*>(job.scores)[at];
    if (job.kind == 2) return static_cast<const float*>(job.scores)[at];
    const std::uint16_t bits = static_cast<const std::uint16_t*>(job.scores)[at];
    if (job.kind == 1) {  // bfloat16: the upper half of a float32
        const std::uint32_t wide = std::uint32_t(bits) << 16;
        float number;
        std::memcpy(&number, &wide, 4);
        return number;
    }
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double size = exponent == 31 ? (fraction ? NAN : INFINITY)
                        : exponent     ? std::ldexp(1024 + fraction, exponent - 25)
                                       : std::ldexp(fraction, -24);
    return bits >> 15 ? -size : size;
}

// SplitMix64 (Steele et al. 2014).
constexpr uint64_t golden = 0x9E3779B97F4A7C15;
uint64_t mix(uint64_t x) {
    x += golden;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}

// What stays of k chosen scores, in the order of the text, and which of them is drawn; -1 where none can be.
int64_t drawn(const Sample& rule, const double* values, double* share, int64_t* order, int64_t k, uint64_t seed) {
    const double peak = *std::max_element(values, values + k);  // of NaN see below
    double sum = 0;
    for (int64_t i = 0; i < k; ++i) {
        if (values[i] != values[i]) return -1;  // the highest of all, so that it is among the chosen
        sum += share[i] = std::exp((values[i] - peak) / rule.temperature);
    }
    if (!std::isfinite(peak)) return -1;
    if (rule.top_p < 1) {
        // Not by the shares, which round unlike scores to one number.
        for (int64_t i = 0; i < k; ++i) order[i] = i;
        std::sort(order, order + k, [values](int64_t a, int64_t b) {
            return values[a] > values[b] || (values[a] == values[b] && a < b);
        });
        const double goal = rule.top_p * sum;
        double before = 0;
        for (int64_t i = 0; i < k; ++i) {
            const double own = share[order[i]];
            if (before >= goal) share[order[i]] = 0;
            before += own;
        }
    }
    double whole = 0;
    for (int64_t i = 0; i < k; ++i) {
        if (share[i] < rule.min_p) share[i] = 0;
        whole += share[i];
    }
    const uint64_t bits = mix(mix(seed));
    const double goal = std::ldexp(double(bits >> 12) + 0.5, -52) * whole;
    double walk = 0;
    int64_t last = -1;
    for (int64_t i = 0; i < k; ++i) {
        if (share[i] == 0) continue;
        walk += share[i];
        last = i;
        if (walk > goal || walk >= whole) break;
    }
    return last;
}

}  // namespace

bool sample_rows(const Sample& rule, int64_t begin, int64_t end) {
    const int64_t k = rule.hard.width;
    const std::unique_ptr<int64_t[]> memory(new (std::nothrow) int64_t[4 * k]);
    if (!memory) return false;
    int64_t* places = memory.get();
    double* values = reinterpret_cast<double*>(places + 2 * k);
    for (int64_t r = begin; r < end; ++r) {
        Hard job = rule.hard;
        job.scores = static_cast<const char*>(job.scores) + r * job.row_step * (job.kind < 2 ? 2 : 4 * (job.kind - 1));
        job.indices = places;
        if (!hard_rows(job, 0, 1)) return false;
        for (int64_t i = 0; i < k; ++i) values[i] = score(job, places[i] * job.step);
        const uint64_t seed = rule.seeds ? uint64_t(rule.seeds[r]) : uint64_t(rule.first_seed) + uint64_t(r);
        const int64_t at = drawn(rule, values, values + k, places + k, k, seed);
        rule.columns[r] = at < 0 ? -1 : places[at];
    }
    return true;
}

}  // namespace topk
