// Exact hard top-k of rows: ties to the lowest index, -0.0 equal to +0.0, NaN highest.
#include "hard.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "keys.h"
#include "pack.h"

namespace topk {
namespace {

template <class Key>
using Select = Edge<Key> (*)(Key* x, int64_t m, int64_t k);  // kth_largest

// The place after the last of the first `room` entries equal to `key`.
template <class R>
INLINE int64_t after_ties(const R& row, typename R::Key key, int64_t room) {
    int64_t i = 0;
    while (room) room -= row.at(i++) == key;
    return i;
}

// Choose the entries above `first` up to `middle` and those above `then` from there on. Exactly k are; their
// places are written where `out` is not null.
template <class Pack, class R>
INLINE void reach(const R& row, int64_t n, int64_t k, typename R::Key first, int64_t middle,
                  typename R::Key then, int64_t* out, uint8_t* mask) {
    int64_t found = 0;
    for (int64_t start = 0, end; start < n; start = end) {
        const auto than = start < middle ? first : then;
        const int64_t stop = start < middle ? middle : n;
        end = stop - start < block ? stop : start + block;
        const int64_t size = end - start;
        uint8_t own[block];
        uint8_t* hit = mask ? mask + start : own;
        if (size == block) {
            for (int64_t i = 0; i < block; ++i) hit[i] = row.at(start + i) > than;
        } else {
            for (int64_t i = 0; i < size; ++i) hit[i] = row.at(start + i) > than;
        }
        if (!out) continue;
        if (size < block) {
            for (int64_t i = 0; i < size && found < k; ++i) {
                out[found] = start + i;
                found += hit[i];
            }
        } else if (found + block <= k) {
            found += Pack::places(hit, start, out + found);
        } else {
            int64_t spare[block];
            const int64_t more = Pack::places(hit, start, spare);
            for (int64_t i = 0; i < more; ++i) out[found + i] = spare[i];
            found += more;
        }
    }
}

template <class To>
INLINE To* aligned(void* memory) {
    return reinterpret_cast<To*>((reinterpret_cast<std::uintptr_t>(memory) + 7) & ~std::uintptr_t(7));
}

// A small k of a long row, which is read once. The row is cut into blocks and the largest key of each is
// noted. The k-th largest of these maxima is a floor: k blocks reach it, each with at least one entry, so
// the k largest entries reach it too, and they all lie in these blocks, which alone are read again.
//
// Returns false where ties at the floor let many more blocks reach it.
template <class R>
INLINE bool choose_few(const R& row, int64_t n, int64_t k, int64_t size,
                       Select<typename R::Key> select, void* memory, int64_t* indices, uint8_t* mask) {
    using Key = typename R::Key;
    const int64_t blocks = (n + size - 1) / size;
    Key* maxima = static_cast<Key*>(memory);
    Key* work = maxima + blocks;
    for (int64_t b = 0; b + 1 < blocks; ++b) {
        Key best = never<Key>;
        for (int64_t i = 0; i < size; ++i) {
            const Key key = row.at(b * size + i);
            best = key > best ? key : best;
        }
        maxima[b] = best;
    }
    Key best = never<Key>;
    for (int64_t i = (blocks - 1) * size; i < n; ++i) {
        const Key key = row.at(i);
        best = key > best ? key : best;
    }
    maxima[blocks - 1] = best;
    for (int64_t b = 0; b < blocks; ++b) work[b] = maxima[b];
    const Edge<Key> floor = select(work, blocks, k);
    if (floor.ties - floor.room > k) return false;

    // The candidates in the order of the text: their places, then their keys.
    int32_t* places = aligned<int32_t>(work);
    int64_t found = 0;
    for (int64_t b = 0; b < blocks; ++b) {
        if (maxima[b] < floor.key) continue;
        const int64_t end = (b + 1) * size < n ? (b + 1) * size : n;
        for (int64_t i = b * size; i < end; ++i) {
            places[found] = int32_t(i);
            found += row.at(i) >= floor.key;
        }
    }
    Key above = Key(floor.key - 1), last = above;  // chosen: what is above, and of the ties with `last` the first
    int64_t room = 0;
    if (found > k) {
        Key* keys = aligned<Key>(places + found + 1);
        for (int64_t i = 0; i < found; ++i) keys[i] = row.at(places[i]);
        const Edge<Key> edge = select(keys, found, k);
        above = last = edge.key;
        room = edge.room;
    }
    if (mask) std::memset(mask, 0, n);
    for (int64_t i = 0, at = 0; i < found; ++i) {
        const Key key = row.at(places[i]);
        const bool tie = key == last && room > 0;
        if (key > above || tie) {
            room -= tie;
            if (indices) indices[at++] = places[i];
            if (mask) mask[places[i]] = 1;
        }
    }
    return true;
}

// Entries a block of `choose_few`; 0 where k is too large for it.
INLINE int64_t block_size(int64_t n, int64_t k) {
    int64_t size = 512;
    while (size >= 32 && n < 8 * k * size) size /= 2;
    return size >= 32 ? size : 0;
}

// Any k of the `able` entries that may be chosen. The edge is the k-th largest: what lies above it is chosen, and
// of the entries equal to it the first.
template <class Pack, class R>
INLINE void choose_row(const R& row, int64_t n, int64_t k, int64_t able, Select<typename R::Key> select,
                       void* memory, int64_t* indices, uint8_t* mask) {
    using Key = typename R::Key;
    const int64_t size = block_size(n, k);
    if (size && 0 < k && k < able && choose_few(row, n, k, size, select, memory, indices, mask)) return;
    Key first = never<Key>, then = first;
    int64_t middle = k ? n : 0;
    if (k == 0) then = largest<Key>;
    if (0 < k && k < able) {
        Key* work = static_cast<Key*>(memory);
        for (int64_t i = 0; i < n; ++i) work[i] = row.at(i);
        const Edge<Key> edge = select(work, n, k);
        if (edge.room < edge.ties) middle = after_ties(row, edge.key, edge.room);
        first = Key(edge.key - 1);
        then = edge.key;
    }
    reach<Pack>(row, n, k, first, middle, then, indices, mask);
}

template <class Pack, class S>
INLINE void rows_of(const Hard& job, int64_t begin, int64_t end, void* memory, Select<typename S::Key> select) {
    using Key = typename S::Key;
    const int64_t n = job.n, width = job.width;
    for (int64_t r = begin; r < end; ++r) {
        const Key* x = static_cast<const Key*>(job.scores) + r * job.row_step;
        int64_t* indices = job.indices ? job.indices + r * width : nullptr;
        uint8_t* mask = job.mask ? job.mask + r * n : nullptr;
        int64_t k = job.ks ? std::clamp<int64_t>(job.ks[r], 0, width) : width;  // unchecked where compiled
        if (job.valid || job.step != 1) {
            static const uint8_t yes = 1;
            const uint8_t* valid = job.valid ? job.valid + r * job.valid_row_step : &yes;
            const int64_t valid_step = job.valid ? job.valid_step : 0;
            int64_t able = 0;
            for (int64_t i = 0; i < n; ++i) able += valid[i * valid_step];
            if (k > able) k = able;
            choose_row<Pack>(Masked<S>{x, valid, job.step, valid_step}, n, k, able, select, memory, indices, mask);
        } else {
            choose_row<Pack>(Plain<S>{x}, n, k, n, select, memory, indices, mask);
        }
        if (!indices) continue;
        if (job.by_value)
            std::sort(indices, indices + k, [x, step = job.step](int64_t a, int64_t b) {
                const Key first = S::key(x[a * step]), second = S::key(x[b * step]);
                return first > second || (first == second && a < b);
            });
        Key* values = job.values ? static_cast<Key*>(job.values) + r * width : nullptr;
        if (values)
            for (int64_t i = 0; i < k; ++i) values[i] = x[indices[i] * job.step];
        for (int64_t i = k; i < width; ++i) {
            indices[i] = -1;
            if (values) values[i] = 0;
        }
    }
}

// One function for each kind of score and each set of instructions.
using Rows = void (*)(const Hard&, int64_t, int64_t, void*);
#define SELECT(NAME, TARGET, PACK, KEY) \
    TARGET Edge<KEY> NAME(KEY* x, int64_t m, int64_t k) { return kth_largest<PACK>(x, m, k); }
#define ROWS(NAME, TARGET, PACK, KIND, SELECT)                                     \
    TARGET void NAME(const Hard& job, int64_t begin, int64_t end, void* memory) { \
        if (job.smallest) {                                                        \
            rows_of<PACK, Turned<KIND>>(job, begin, end, memory, SELECT);          \
        } else {                                                                   \
            rows_of<PACK, KIND>(job, begin, end, memory, SELECT);                  \
        }                                                                          \
    }
#define FOUR_KINDS(NAME, TARGET, PACK)                 \
    SELECT(NAME##kth16, TARGET, PACK, int16_t)         \
    SELECT(NAME##kth32, TARGET, PACK, int32_t)         \
    SELECT(NAME##kth64, TARGET, PACK, int64_t)         \
    ROWS(NAME##0, TARGET, PACK, Float16, NAME##kth16)  \
    ROWS(NAME##1, TARGET, PACK, BFloat16, NAME##kth16) \
    ROWS(NAME##2, TARGET, PACK, Float32, NAME##kth32)  \
    ROWS(NAME##3, TARGET, PACK, Float64, NAME##kth64)

FOUR_KINDS(plain, , Any)
#if defined(__GNUC__) && defined(__x86_64__)
FOUR_KINDS(avx2_, AVX2, Avx2)
FOUR_KINDS(avx512_, AVX512, Avx512)
#define LEVELS 3
const Select<int16_t> kth16[LEVELS] = {plainkth16, avx2_kth16, avx512_kth16};
const Select<int32_t> kth32[LEVELS] = {plainkth32, avx2_kth32, avx512_kth32};
const Select<int64_t> kth64[LEVELS] = {plainkth64, avx2_kth64, avx512_kth64};
const Rows table[LEVELS][4] = {{plain0, plain1, plain2, plain3},
                               {avx2_0, avx2_1, avx2_2, avx2_3},
                               {avx512_0, avx512_1, avx512_2, avx512_3}};
int best() {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("popcnt"))
        return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt");
}
#else
#define LEVELS 1
const Select<int16_t> kth16[LEVELS] = {plainkth16};
const Select<int32_t> kth32[LEVELS] = {plainkth32};
const Select<int64_t> kth64[LEVELS] = {plainkth64};
const Rows table[LEVELS][4] = {{plain0, plain1, plain2, plain3}};
int best() { return 0; }
#endif
int level = best();

}  // namespace

int use_level(int wanted) {
    const int most = best();
    return level = wanted < 0 || wanted > most ? most : wanted;
}

int level_in_use() { return level; }

int64_t kth_key(int kind, void* keys, int64_t m, int64_t k) {
    if (kind == 3) return kth64[level](static_cast<int64_t*>(keys), m, k).key;
    if (kind == 2) return kth32[level](static_cast<int32_t*>(keys), m, k).key;
    return kth16[level](static_cast<int16_t*>(keys), m, k).key;
}

bool hard_rows(const Hard& job, int64_t begin, int64_t end) {
    const int64_t bytes = int64_t(1) << (job.kind == 3 ? 3 : job.kind == 2 ? 2 : 1);
    void* memory = std::malloc(std::size_t(job.n * bytes + 64));  // a row of keys
    if (!memory) return false;
    table[level][job.kind](job, begin, end, memory);
    std::free(memory);
    return true;
}

}  // namespace topk
