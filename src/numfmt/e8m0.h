/* E8M0: a scale that is a power of two, 2^(code - 127) for codes 0..254; 255 is NaN. Source: OCP Microscaling Formats v1.0, §5.4.1. */
#pragma once

#include "numfmt/bits.h"

/* The smallest power of two that is >= ratio (the largest magnitude of a block over the largest element value), taken from the bits of
 * the ratio; at least 2^-127 (zero gives that too), at most 2^127. ratio is finite and >= 0. */
TM_HD uint8_t e8m0_encode_up(float ratio) {
    uint32_t u = bits_of(ratio) & 0x7fffffffu, exponent = u >> 23, fraction = u & 0x7fffffu;
    uint32_t normal = exponent + (fraction && exponent < 254u ? 1u : 0u);
    return (uint8_t)(exponent ? normal : fraction > 0x400000u ? 1u : 0u);
}
TM_HD float e8m0_decode(uint8_t code) {
    if (code == 255) return bits_float(0x7fc00000u);
    return code ? bits_float((uint32_t)code << 23) : bits_float(0x400000u); /* 2^-127 is a subnormal fp32 */
}
