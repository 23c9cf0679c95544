// Putting the few that count side by side: the one step that compilers do not turn into wide instructions.
//
// `Any` is plain C++ for every processor. AVX-512 has an instruction for it (compress); AVX2 makes do with a
// table that says, for each of the 256 ways to choose among 8, which places are chosen.
#pragma once

#include <cstring>

#include "keys.h"

namespace topk {

constexpr int block = 64;  // entries whose marks are looked at together

struct Any {
    // Keep the keys above (or below) `than`, in order. Every key is written, and the place moves on only if it
    // counts: one key a step, and no branch.
    template <bool above, class Key>
    static inline int64_t keep(Key* x, int64_t m, Key than, int64_t begin = 0, int64_t kept = 0) {
        for (int64_t i = begin; i < m; ++i) {
            const Key key = x[i];
            x[kept] = key;
            kept += above ? key > than : key < than;
        }
        return kept;
    }
    // Write start + i for each of the marks (0 or 1) that is set, in order; returns how many. What lies up to
    // `block` places beyond may be overwritten.
    static inline int64_t places(const uint8_t* marks, int64_t start, int64_t* out) {
        int64_t eight[block / 8], any = 0, found = 0;
        std::memcpy(eight, marks, block);
        for (int64_t i = 0; i < block / 8; ++i) any |= eight[i];
        if (!any) return 0;
        for (int64_t i = 0; i < block; ++i) {
            out[found] = start + i;
            found += marks[i];
        }
        return found;
    }
};

}  // namespace topk

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,popcnt")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,popcnt")))

namespace topk {

struct Chosen {
    uint8_t of[256][8] = {};
    constexpr Chosen() {
        for (int marks = 0; marks < 256; ++marks)
            for (int i = 0, at = 0; i < 8; ++i)
                if (marks >> i & 1) of[marks][at++] = uint8_t(i);
    }
};
constexpr Chosen chosen;

struct Avx2 : Any {
    template <bool above, class Key>
    AVX2 static int64_t keep(Key* x, int64_t m, Key than) {
        int64_t i = 0, kept = 0;
        if constexpr (sizeof(Key) == 4) {
            const __m256i edge = _mm256_set1_epi32(than);
            for (; i + 8 <= m; i += 8) {
                const __m256i keys = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
                const __m256i hit = above ? _mm256_cmpgt_epi32(keys, edge) : _mm256_cmpgt_epi32(edge, keys);
                const int marks = _mm256_movemask_ps(_mm256_castsi256_ps(hit));
                const __m128i from = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(chosen.of[marks]));
                const __m256i packed = _mm256_permutevar8x32_epi32(keys, _mm256_cvtepu8_epi32(from));
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(x + kept), packed);
                kept += __builtin_popcount(unsigned(marks));
            }
        }
        return Any::keep<above>(x, m, than, i, kept);
    }
    AVX2 static int64_t places(const uint8_t* marks, int64_t start, int64_t* out) {
        int64_t found = 0;
        for (int half = 0; half < block; half += 32) {
            const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(marks + half));
            unsigned left = unsigned(_mm256_movemask_epi8(_mm256_slli_epi16(bytes, 7)));
            for (int64_t first = start + half; left; left >>= 8, first += 8) {
                const __m128i from = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(chosen.of[left & 255]));
                const __m256i base = _mm256_set1_epi64x(first);
                __m256i* to = reinterpret_cast<__m256i*>(out + found);
                _mm256_storeu_si256(to, _mm256_add_epi64(base, _mm256_cvtepu8_epi64(from)));
                _mm256_storeu_si256(to + 1, _mm256_add_epi64(base, _mm256_cvtepu8_epi64(_mm_srli_si128(from, 4))));
                found += __builtin_popcount(left & 255);
            }
        }
        return found;
    }
};

struct Avx512 : Any {
    template <bool above, class Key>
    AVX512 static int64_t keep(Key* x, int64_t m, Key than) {
        int64_t i = 0, kept = 0;
        // To a register first: some processors are slow to compress into memory.
        if constexpr (sizeof(Key) == 4) {
            const __m512i edge = _mm512_set1_epi32(than);
            for (; i + 16 <= m; i += 16) {
                const __m512i keys = _mm512_loadu_si512(x + i);
                const __mmask16 hit = above ? _mm512_cmpgt_epi32_mask(keys, edge) : _mm512_cmplt_epi32_mask(keys, edge);
                _mm512_storeu_si512(x + kept, _mm512_maskz_compress_epi32(hit, keys));
                kept += __builtin_popcount(hit);
            }
        } else if constexpr (sizeof(Key) == 8) {
            const __m512i edge = _mm512_set1_epi64(than);
            for (; i + 8 <= m; i += 8) {
                const __m512i keys = _mm512_loadu_si512(x + i);
                const __mmask8 hit = above ? _mm512_cmpgt_epi64_mask(keys, edge) : _mm512_cmplt_epi64_mask(keys, edge);
                _mm512_storeu_si512(x + kept, _mm512_maskz_compress_epi64(hit, keys));
                kept += __builtin_popcount(hit);
            }
        }
        return Any::keep<above>(x, m, than, i, kept);
    }
    AVX512 static int64_t places(const uint8_t* marks, int64_t start, int64_t* out) {
        const __m512i bytes = _mm512_loadu_si512(marks);
        const __m512i steps = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
        int64_t found = 0;
        for (unsigned long long left = _mm512_test_epi8_mask(bytes, bytes); left; left >>= 8, start += 8) {
            const __m512i eight = _mm512_add_epi64(_mm512_set1_epi64(start), steps);
            _mm512_storeu_si512(out + found, _mm512_maskz_compress_epi64(__mmask8(left), eight));
            found += __builtin_popcount(unsigned(left & 255));
        }
        return found;
    }
};

}  // namespace topk
#endif
