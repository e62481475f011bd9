/* How batches lie in memory: types of their values, planes or interleaved channels. Between, images are planes of floats. */

typedef struct {
    const void *values;
    int32_t is_bytes, height, width;
} Image;

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static inline float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* Not every compiler has these types. Narrowing rounds to the nearest, ties to even, as PyTorch does. */

static inline float wide_bfloat16(uint16_t x) { return from_bits((uint32_t)x << 16); }

static inline uint16_t bfloat16_of(float x) {
    uint32_t bits = bits_of(x);
    return x == x ? (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16) : 0x7fc0;
}

static inline float wide_float16(uint16_t x) {
    uint32_t size = (uint32_t)(x & 0x7fff) << 13, sign = (uint32_t)(x & 0x8000) << 16;
    uint32_t bits = bits_of(from_bits(size) * 0x1p112f); /* exponents are counted from -15, not from -127 */
    return from_bits((size < 0x0f800000 ? bits : size | 0x7f800000) | sign);
}

static inline uint16_t float16_of(float x) {
    uint32_t size = bits_of(x) & 0x7fffffff, sign = bits_of(x) >> 16 & 0x8000;
    uint32_t normal = (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
    uint32_t subnormal = bits_of(from_bits(size) + 0.5f) - 0x3f000000; /* the addition rounds to steps of 2**-24 */
    uint32_t large = size > 0x7f800000 ? 0x7e00 : 0x7c00;
    return (uint16_t)((size < 0x38800000 ? subnormal : (size < 0x47800000 ? normal : large)) | sign);
}

#define AS_IT_IS(x) (x)
#define UNPACK(NAME, FROM, TO, WIDE)                                                                          \
    static void NAME(const void *values, int64_t first, int64_t count, int is_interleaved, void *room) {      \
        const FROM *restrict from = (const FROM *)values + first;                                             \
        TO *restrict to = room;                                                                               \
        if (is_interleaved)                                                                                   \
            for (int64_t i = 0; i < count; i++)                                                               \
                for (int c = 0; c < 3; c++) to[c * count + i] = WIDE(from[3 * i + c]);                        \
        else                                                                                                  \
            for (int64_t i = 0; i < 3 * count; i++) to[i] = WIDE(from[i]);                                    \
    }

UNPACK(unpack_bytes, uint8_t, uint8_t, AS_IT_IS)
UNPACK(unpack_floats, float, float, AS_IT_IS)
UNPACK(unpack_bfloat16, uint16_t, float, wide_bfloat16)
UNPACK(unpack_float16, uint16_t, float, wide_float16)

/* An image of a batch [batch, 3, height, width] as planes of bytes or floats: where it lies, or in ``room`` where it lies otherwise. */
static Image image_of(const Batch *batch, int64_t image, int height, int width, void *room) {
    int64_t count = (int64_t)height * width, first = 3 * count * image;
    int is_bytes = batch->type == PIXEL_UINT8, is_float = batch->type == PIXEL_FLOAT32;
    if (!batch->is_interleaved && (is_bytes || is_float)) {
        const char *at = (const char *)batch->values + first * (is_bytes ? 1 : (int64_t)sizeof(float));
        return (Image){at, is_bytes, height, width};
    }
    switch (batch->type) {
    case PIXEL_UINT8: unpack_bytes(batch->values, first, count, batch->is_interleaved, room); break;
    case PIXEL_FLOAT32: unpack_floats(batch->values, first, count, batch->is_interleaved, room); break;
    case PIXEL_BFLOAT16: unpack_bfloat16(batch->values, first, count, batch->is_interleaved, room); break;
    case PIXEL_FLOAT16: unpack_float16(batch->values, first, count, batch->is_interleaved, room); break;
    }
    return (Image){room, is_bytes, height, width};
}

static inline uint8_t byte_of(float x) {
    float level = rintf(x * 255.0f);
    level = level > 0.0f ? level : 0.0f;
    return (uint8_t)(int32_t)(level < 255.0f ? level : 255.0f);
}

/* Where value ``place`` of a batch of that type lies. */
static inline void *place_in(void *batch, int32_t type, int64_t place) {
    int64_t size = type == PIXEL_UINT8 ? 1 : (type == PIXEL_FLOAT32 ? 4 : 2);
    return (char *)batch + size * place;
}

static void store(const float *restrict from, int64_t count, int32_t type, void *values) {
    uint8_t *restrict bytes = values;
    uint16_t *restrict halves = values;
    switch (type) {
    case PIXEL_UINT8:
        for (int64_t i = 0; i < count; i++) bytes[i] = byte_of(from[i]);
        break;
    case PIXEL_BFLOAT16:
        for (int64_t i = 0; i < count; i++) halves[i] = bfloat16_of(from[i]);
        break;
    case PIXEL_FLOAT16:
        for (int64_t i = 0; i < count; i++) halves[i] = float16_of(from[i]);
        break;
    }
}
