// The library's only macros.
//
// FUSEDRNN_HD    marks a function that host and device code both call.
// FUSEDRNN_ISA   names the instruction set that the current object is compiled
//                for. Everything in math/, cells/ and cpu/isa/ sits in the inline
//                namespace of that name, see Note [ISA namespace].
//
// Note [ISA namespace]
// The linker keeps one copy of an inline function, whichever object it came
// from. Without a namespace per instruction set, a function compiled for
// AVX-512 could serve the generic entry point and crash an older machine.
// Functions outside those namespaces are safe because FUSEDRNN_HD inlines them:
// a build for the address sanitizer, where it does not, is for a machine that
// has every instruction set in it.
#pragma once

#if defined(__CUDACC__)
#define FUSEDRNN_HD __host__ __device__ __forceinline__
#elif defined(__SANITIZE_ADDRESS__)
// Inlined everywhere, the sanitizers' checks would take the compiler four times as long.
#define FUSEDRNN_HD inline
#elif defined(__GNUC__) || defined(__clang__)
#define FUSEDRNN_HD inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#define FUSEDRNN_HD __forceinline
#else
#define FUSEDRNN_HD inline
#endif

#ifndef FUSEDRNN_ISA
#define FUSEDRNN_ISA baseline
#endif
