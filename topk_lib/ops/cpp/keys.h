// Scores as whole numbers, and the k-th largest of them.
//
// Nothing here is written for one processor: loops without branches over arrays, which a compiler turns
// into instructions on 8, 16 or 32 numbers at once. hard.cpp has them compiled several times.
#pragma once

#include <cmath>
#include <cstdint>

// Everything is drawn into the functions of hard.cpp, each of which is compiled for its own instructions.
#if defined(__GNUC__)
#define INLINE inline __attribute__((always_inline))
#else
#define INLINE __forceinline
#endif

namespace topk {

using std::int16_t;
using std::int32_t;
using std::int64_t;
using std::uint8_t;

template <class Key>
constexpr Key largest = Key(~(Key(1) << (8 * sizeof(Key) - 1)));

// The key of an entry that must not be chosen; below that of -infinity.
template <class Key>
constexpr Key never = Key(-largest<Key> - 1);

// A score's bits, read as a whole number, already order the positive scores: 1.0 is 0x3f800000, 2.0 is
// 0x40000000. A sign turns the number's own sign: then -0.0 is 0 as +0.0 is, and -2.0 < -1.0. Every NaN
// becomes the largest number of all. Comparing keys is the order of the contract, with no exceptions, and
// no mode of the processor (flushing of denormal numbers, say) changes it.
//
// `infinity`: the bits of +infinity; what lies above, the sign apart, is NaN.
template <class Bits, Bits infinity>
struct Scores {
    using Key = Bits;
    static constexpr Key endless = infinity;  // the key of +infinity, and less its sign of -infinity
    static INLINE Key key(Bits bits) {
        const Bits size = Bits(bits & largest<Bits>);
        // All ones, or 0: a condition that no compiler turns back into a jump.
        const Bits minus = Bits(-Bits(bits < 0)), nan = Bits(-Bits(size > infinity));
        return Bits((((size ^ minus) - minus) & ~nan) | (largest<Bits> & nan));
    }
};
// The order turned round: the smallest score has the largest key, NaN the least but `never`.
template <class S>
struct Turned {
    using Key = typename S::Key;
    static INLINE Key key(Key bits) { return Key(-S::key(bits)); }
};
using Float16 = Scores<int16_t, 0x7c00>;
using BFloat16 = Scores<int16_t, 0x7f80>;
using Float32 = Scores<int32_t, 0x7f800000>;
using Float64 = Scores<int64_t, 0x7ff0000000000000>;

// Where the keys of a row come from: at(i) is that of entry i.
template <class S>
struct Plain {
    using Key = typename S::Key;
    const Key* x;
    INLINE Key at(int64_t i) const { return S::key(x[i]); }
};
template <class S>
struct Masked {  // entries that lie `step` apart, those chosen from marked
    using Key = typename S::Key;
    const Key* x;
    const uint8_t* valid;
    int64_t step, valid_step;
    INLINE Key at(int64_t i) const { return valid[i * valid_step] ? S::key(x[i * step]) : never<Key>; }
};

template <class Key>
struct Edge {
    Key key;       // the k-th largest
    int64_t room;  // how many entries equal to it are chosen
    int64_t ties;  // how many there are
};

constexpr int few = 32;

// Of `few` keys the one with `at` keys before it in descending order. Each is compared with each: that is soon
// done many at a time, and has no branch that a processor could guess wrong.
template <class Key>
INLINE Key one_of_few(const Key* in, Key at) {
    Key larger[few] = {};
    for (int j = 0; j < few; ++j)
        for (int i = 0; i < few; ++i) larger[i] += Key(in[j] > in[i]);
    Key found = largest<Key>;
    for (int i = 0; i < few; ++i) {
        const Key key = larger[i] <= at ? in[i] : largest<Key>;
        found = key < found ? key : found;
    }
    return found;
}

template <class Key>
INLINE void count(const Key* x, int64_t m, Key than, int64_t& above, int64_t& same) {
    // Counters as wide as the keys fill whole vectors; they are emptied before one of 16 bits overflows.
    above = same = 0;
    for (int64_t start = 0; start < m; start += 16384) {
        const int64_t end = start + 16384 < m ? start + 16384 : m;
        Key more = 0, equal = 0;
        for (int64_t i = start; i < end; ++i) {
            more += Key(x[i] > than);
            equal += Key(x[i] == than);
        }
        above += more;
        same += equal;
    }
}

// The k-th largest of m keys, 1 <= k <= m, which are shuffled and lost.
//
// A pivot parts the keys; the part that holds the k-th largest is kept; and so on. Any pivot is right. A good
// one lies just beyond the k-th largest: a sample of 32 keys tells where that is, give or take.
template <class Pack, class Key>
INLINE Edge<Key> kth_largest(Key* x, int64_t m, int64_t k) {
    for (;;) {
        Key sample[few];
        int64_t more, equal;
        if (m <= few) {
            for (int i = 0; i < few; ++i) sample[i] = i < m ? x[i] : never<Key>;
            const Key edge = one_of_few(sample, Key(k - 1));
            count(sample, few, edge, more, equal);
            return {edge, k - more, equal};
        }
        const int64_t stride = (m - 1) / (few - 1);
        for (int i = 0; i < few; ++i) sample[i] = x[i * stride];
        // The rank in the sample is k / m of it, and its spread sqrt(q (1 - q) / 32) of it.
        const float q = float(k) / float(m), rank = q * few, spread = 1 + std::sqrt(q * (1 - q) * few);
        const int64_t at = int64_t(2 * k <= m ? rank + spread : rank - spread);
        const Key pivot = one_of_few(sample, Key(at < 0 ? 0 : at >= few ? few - 1 : at));
        count(x, m, pivot, more, equal);
        if (k <= more) {
            m = Pack::template keep<true>(x, m, pivot);
        } else if (k <= more + equal) {
            return {pivot, k - more, equal};
        } else {
            m = Pack::template keep<false>(x, m, pivot);
            k -= more + equal;
        }
    }
}

}  // namespace topk
