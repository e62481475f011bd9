/* Geometry of an image: augment/fused/geometry.py. Images are planar: three planes of height x width values. */

/* Pixel p of a row or column of the result is pixel origin + direction * p of what it was made from, mirrored or black beyond. */
typedef struct {
    int32_t origin, direction, is_reflected;
} Axis;

static const Axis FORWARDS = {0, 1, 0};
static const float RAW[6] = {1.0f, 0.0f, 1.0f, 0.0f, 1.0f, 0.0f}; /* gain and bias that change nothing */

typedef struct {
    float *moved, *spare, *pixels, *line, *weights[2];
    int32_t *starts[2];
} Scratch;

static inline int within(double x, int low, int high) { return x > low ? (x < high ? (int)x : high) : low; }

/* ---- reading pixels -------------------------------------------------------------------------------------------------- */

#define BLOCK 16 /* pixels of a row that are read at once: a loop of known length becomes a few wide instructions */

/* x * normal[0] + normal[1], or x / 255, which rounds as a division does: the first product is exact, the second one small. */
static inline float scaled(float x, const float *normal) {
    return normal ? x * normal[0] + normal[1] : x * (257.0f / 65536.0f) + x * (1.0f / (255.0f * 65536.0f));
}

static inline void read_block(const uint8_t *restrict from, int step, float *restrict to, const float *restrict normal) {
#pragma GCC unroll 1 /* a loop is made wide, lines one after the other are not */
    for (int x = 0; x < BLOCK; x++) to[x] = scaled(from[step * x], normal);
}

static inline void read_bytes(const uint8_t *from, int step, int count, float *to, const float *normal) {
    int x = 0;
    for (; x + BLOCK <= count; x += BLOCK) read_block(from + step * x, step, to + x, normal);
    if (x < count && count >= BLOCK) { /* the last pixels again, with those before them */
        read_block(from + step * (count - BLOCK), step, to + count - BLOCK, normal);
        return;
    }
    for (; x < count; x++) to[x] = scaled((float)from[step * x], normal);
}

static void read_floats(const float *restrict from, int step, int count, float *restrict to) {
    if (step > 0)
        memcpy(to, from, count * sizeof(float));
    else
        for (int x = 0; x < count; x++) to[x] = from[-x];
}

/* Which of ``count`` places have a pixel on an axis of ``side``: from ``first`` up to ``end``. */
static void visible(Axis axis, int side, int count, int *first, int *end) {
    int64_t low = axis.direction > 0 ? -(int64_t)axis.origin : (int64_t)axis.origin - side + 1;
    int64_t high = low + side;
    *first = (int)(low < 0 ? 0 : (low > count ? count : low));
    *end = (int)(high < *first ? *first : (high > count ? count : high));
}

/* Inline, whatever the compiler thinks: flips and crops spend a tenth of their time on calls of it otherwise. */
static inline __attribute__((always_inline)) void read_row(Image from, int64_t at, int step, int count, float *to, const float *normal) {
    const uint8_t *bytes = (const uint8_t *)from.values + at;
    if (!from.is_bytes)
        read_floats((const float *)from.values + at, step, count, to);
    else if (step > 0 && normal) /* called with constants, so that each is compiled on its own */
        read_bytes(bytes, 1, count, to, normal);
    else if (step > 0)
        read_bytes(bytes, 1, count, to, NULL);
    else if (normal)
        read_bytes(bytes, -1, count, to, normal);
    else
        read_bytes(bytes, -1, count, to, NULL);
}

static void fill(float *to, int count, float value) {
    for (int x = 0; x < count; x++) to[x] = value;
}

/* A place on an axis of ``side`` pixels: those beyond the first and the last one, which are not repeated, are mirrored. */
static int mirrored(int place, int side) { return within(side - 1 - abs(abs(place) - (side - 1)), 0, side - 1); }

/* Pixels first .. end - 1 of a row, mirrored from the row of the source that starts at ``at``. */
static void read_beyond(Image from, int64_t at, Axis columns, int first, int end, float *to, const float *normal) {
    for (int x = first; x < end; x++)
        read_row(from, at + mirrored(columns.origin + columns.direction * x, from.width), 1, 1, to + x, normal);
}

/* As ``read_image``, mirrored beyond the source's border. */
static void read_mirrored(Image from, Axis rows, Axis columns, int height, int width, float *to, int64_t apart, int stride,
                          const float *normal) {
    int left, right;
    visible(columns, from.width, width, &left, &right);
    for (int c = 0; c < 3; c++) {
        const float *its_normal = normal ? normal + 2 * c : NULL;
        for (int y = 0; y < height; y++) {
            float *row = to + c * apart + (int64_t)y * stride;
            int64_t at = ((int64_t)c * from.height + mirrored(rows.origin + rows.direction * y, from.height)) * from.width;
            read_row(from, at + columns.origin + columns.direction * left, columns.direction, right - left, row + left,
                     its_normal);
            read_beyond(from, at, columns, 0, left, row, its_normal);
            read_beyond(from, at, columns, right, width, row, its_normal);
        }
    }
}

/* height x width pixels by the axes, black from outside, into planes ``apart`` values from one another with rows of ``stride``.
 * ``normal``, for bytes: gain and bias of each channel, applied on the way. */
static void read_image(Image from, Axis rows, Axis columns, int height, int width, float *to, int64_t apart, int stride,
                       const float *normal) {
    if (columns.is_reflected) { /* a crop moves both axes */
        read_mirrored(from, rows, columns, height, width, to, apart, stride, normal);
        return;
    }
    int top, bottom, left, right;
    visible(rows, from.height, height, &top, &bottom);
    visible(columns, from.width, width, &left, &right);
    int is_whole = right - left == from.width && width == from.width && stride == width;
    if (is_whole && columns.direction > 0 && rows.direction > 0 && bottom - top == height) {
        /* Rows follow one another: one long row. */
        left = 0, right = width = width * height, top = 0, bottom = height = 1;
    }
    for (int c = 0; c < 3; c++) {
        const float *its_normal = normal ? normal + 2 * c : NULL;
        float black = normal ? its_normal[1] : 0.0f;
        for (int y = 0; y < height; y++) {
            float *row = to + c * apart + (int64_t)y * stride;
            if (y < top || y >= bottom || left == right) {
                fill(row, width, black);
                continue;
            }
            int64_t source = (int64_t)c * from.height + rows.origin + rows.direction * y;
            read_row(from, source * from.width + columns.origin + columns.direction * left, columns.direction, right - left,
                     row + left, its_normal);
            fill(row, left, black);
            fill(row + right, width - right, black);
        }
    }
}

/* ---- resampling ------------------------------------------------------------------------------------------------------ */

typedef float Pixel __attribute__((vector_size(16), aligned(4), may_alias));

/* Three rows to pixels of four values, which one load fetches, and back. */
static void interleave(const float *restrict red, const float *restrict green, const float *restrict blue, int count,
                       float *restrict pixels) {
    for (int x = 0; x < count; x++) *(Pixel *)(pixels + 4 * (int64_t)x) = (Pixel){red[x], green[x], blue[x], 0.0f};
}

static void separate(const float *restrict pixels, int count, float *restrict red, float *restrict green,
                     float *restrict blue) {
    for (int x = 0; x < count; x++) {
        red[x] = pixels[4 * x];
        green[x] = pixels[4 * x + 1];
        blue[x] = pixels[4 * x + 2];
    }
}

/* Weights for resizing ``length`` pixels to ``size``, as geometry.neighbours; returns how many each place has. */
static int weigh(float length, int size, Axis mirror, int antialias, int32_t *starts, float *weights) {
    float step = length / (float)size, reach = antialias && step > 1.0f ? step : 1.0f;
    int all = (int)length, most = (int)ceilf(2.0f * reach);
    int count = most < all ? most : all;
    for (int p = 0; p < size; p++) {
        float centre = ((float)(mirror.origin + mirror.direction * p) + 0.5f) * step;
        int first = (int)floorf(centre - reach + 0.5f);
        int start = first < 0 ? 0 : (first > all - count ? all - count : first);
        float total = 0.0f, *row = weights + (int64_t)p * count;
        for (int k = 0; k < count; k++) {
            float weight = 1.0f - fabsf(((float)(start + k) + 0.5f - centre) / reach);
            row[k] = weight > 0.0f ? weight : 0.0f;
            total += row[k];
        }
        for (int k = 0; k < count; k++) row[k] /= total;
        starts[p] = start;
    }
    return count;
}

typedef float Pair __attribute__((vector_size(32), aligned(4), may_alias)); /* two pixels of four values */

#if defined(__clang__) || __GNUC__ >= 12
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define FIRST(pair) __builtin_shufflevector(pair, pair, 0, 1, 2, 3)
#define SECOND(pair) __builtin_shufflevector(pair, pair, 4, 5, 6, 7)
#else
typedef int32_t Lanes __attribute__((vector_size(16)));
#define PICK(a, b, ...) __builtin_shuffle(a, b, (Lanes){__VA_ARGS__})
#define FIRST(pair) (((const Pixel *)&(pair))[0])
#define SECOND(pair) (((const Pixel *)&(pair))[1])
#endif

/* Pairs of neighbours to their weighted sum; a weight for each value. */
static inline __attribute__((always_inline)) Pixel weigh_pairs(const float *pixels, const Pair *weights, int groups) {
    Pair sum = *(const Pair *)pixels * weights[0];
    for (int k = 1; k < groups; k++) sum += *(const Pair *)(pixels + 8 * k) * weights[k];
    return FIRST(sum) + SECOND(sum);
}

/* A line of pixels to ``size`` pixels in planes. Starts and weights go on to a multiple of four places, and so do rows. */
static inline __attribute__((always_inline)) void weigh_line(const float *line, const int32_t *starts, const Pair *weights, int groups,
                                                             int size, float *to, int64_t apart) {
    for (int x = 0; x < size; x += 4, weights += 4 * (int64_t)groups) {
        Pixel a = weigh_pairs(line + 4 * (int64_t)starts[x], weights, groups);
        Pixel b = weigh_pairs(line + 4 * (int64_t)starts[x + 1], weights + groups, groups);
        Pixel c = weigh_pairs(line + 4 * (int64_t)starts[x + 2], weights + 2 * groups, groups);
        Pixel d = weigh_pairs(line + 4 * (int64_t)starts[x + 3], weights + 3 * groups, groups);
        Pixel low = PICK(a, b, 0, 4, 1, 5), high = PICK(c, d, 0, 4, 1, 5);
        *(Pixel *)(to + x) = PICK(low, high, 0, 1, 4, 5);
        *(Pixel *)(to + apart + x) = PICK(low, high, 2, 3, 6, 7);
        *(Pixel *)(to + 2 * apart + x) = PICK(PICK(a, b, 2, 6, 3, 7), PICK(c, d, 2, 6, 3, 7), 0, 1, 4, 5);
    }
}

static inline __attribute__((always_inline)) void weigh_block(const float *rows, int64_t stride, const float *weights, int count,
                                                              float bias, float *to) {
    Pair sum = *(const Pair *)rows * weights[0] + bias;
    for (int k = 1; k < count; k++) sum += *(const Pair *)(rows + k * stride) * weights[k];
    *(Pair *)to = sum;
}

/* ``count`` rows to their weighted sum, plus ``bias``; rows go on to a multiple of eight. */
static void weigh_rows(const float *rows, int64_t stride, const float *weights, int count, int width, float bias, float *to) {
    int x = 0;
    if (count == 2) /* called with a constant, so that it is compiled on its own */
        for (; x + 8 <= width; x += 8) weigh_block(rows + x, stride, weights, 2, bias, to + x);
    else
        for (; x + 8 <= width; x += 8) weigh_block(rows + x, stride, weights, count, bias, to + x);
    if (x < width) {
        float last[8];
        weigh_block(rows + x, stride, weights, count, bias, last);
        memcpy(to + x, last, (width - x) * sizeof(float));
    }
}

static inline int rounded_up(int count, int multiple) { return (count + multiple - 1) / multiple * multiple; }

/* Columns' weights for ``weigh_line``: in pairs, and up to a multiple of four places. Returns pairs a place. */
static int pair_weights(const float *weights, int count, int size, int32_t *starts, Pair *to) {
    int groups = (count + 1) / 2;
    for (int x = 0; x < rounded_up(size, 4); x++) {
        if (x >= size) starts[x] = 0;
        float *its = (float *)(to + (int64_t)x * groups);
        for (int k = 0; k < 2 * groups; k++)
            for (int i = 0; i < 4; i++) its[4 * k + i] = k < count && x < size ? weights[(int64_t)x * count + k] : 0.0f;
    }
    return groups;
}

/* A row of ``width`` pixels to a line of pixels of four values, with a black one behind it; bytes stay 0 to 255. */
static void read_line(Scratch *s, Image from, Axis row, Axis columns, int width, int is_inside) {
    int64_t plane = (int64_t)from.height * from.width, at = (int64_t)row.origin * from.width + columns.origin;
    float *restrict line = s->line;
    memset(line + 4 * (int64_t)width, 0, 4 * sizeof(float));
    if (is_inside && from.is_bytes && columns.direction > 0) {
        const uint8_t *restrict red = (const uint8_t *)from.values + at, *restrict green = red + plane, *restrict blue = green + plane;
        uint32_t *restrict packed = (uint32_t *)s->spare;
        for (int x = 0; x < width; x++) packed[x] = red[x] | (uint32_t)green[x] << 8 | (uint32_t)blue[x] << 16;
        const uint8_t *restrict bytes = (const uint8_t *)packed;
        for (int i = 0; i < 4 * width; i++) line[i] = bytes[i];
        return;
    }
    float *planes = s->spare;
    read_image(from, row, columns, 1, width, planes, width, width, RAW);
    interleave(planes, planes + width, planes + 2 * (int64_t)width, width, line);
}

/* A window of an image, whose first pixel the axes name, to out_height x out_width: columns first, then rows.
 * ``normal``: gain and bias of each channel for what was read. */
static void resize(Scratch *s, Image from, Axis rows, Axis columns, int height, int width, int out_height, int out_width,
                   int antialias, Axis rows_out, Axis columns_out, const float normal[6], float *to) {
    int count_y = weigh((float)height, out_height, rows_out, antialias, s->starts[0], s->weights[0]);
    int count_x = weigh((float)width, out_width, columns_out, antialias, s->starts[1], s->weights[1]);
    int groups = pair_weights(s->weights[1], count_x, out_width, s->starts[1], (Pair *)s->pixels);
    int stride = rounded_up(out_width, 8), top, bottom, left, right;
    int64_t apart = (int64_t)height * stride;
    visible(rows, from.height, height, &top, &bottom);
    visible(columns, from.width, width, &left, &right);
    for (int y = 0; y < height; y++) {
        Axis row = {rows.origin + rows.direction * y, 1, 0};
        float *line = s->moved + (int64_t)y * stride;
        read_line(s, from, row, columns, width, y >= top && y < bottom && left == 0 && right == width);
        if (groups == 1) /* called with constants, so that each is compiled on its own */
            weigh_line(s->line, s->starts[1], (const Pair *)s->pixels, 1, out_width, line, apart);
        else if (groups == 2)
            weigh_line(s->line, s->starts[1], (const Pair *)s->pixels, 2, out_width, line, apart);
        else
            weigh_line(s->line, s->starts[1], (const Pair *)s->pixels, groups, out_width, line, apart);
    }
    float *weights = s->weights[1];
    for (int y = 0; y < out_height; y++)
        for (int c = 0; c < 3; c++) {
            for (int k = 0; k < count_y; k++) weights[k] = s->weights[0][(int64_t)y * count_y + k] * normal[2 * c];
            weigh_rows(s->moved + c * apart + (int64_t)s->starts[0][y] * stride, stride, weights, count_y, out_width,
                       normal[2 * c + 1], to + ((int64_t)c * out_height + y) * out_width);
        }
}

#define EDGE 2 /* black pixels about an image: neighbours of places outside */

static inline float limited(float place, float limit) {
    place = place > -2.0f ? place : -2.0f; /* before rounding: a place may be nowhere */
    return place < limit ? place : limit;
}

/* A place between pixels: its first neighbour among those with an edge, and the shares of the others. */
static inline void put_place(float x, float y, int height, int width, int32_t *at, float *share_x, float *share_y) {
    x = limited(x, (float)width);
    y = limited(y, (float)height);
    float left = floorf(x), top = floorf(y);
    *share_x = x - left;
    *share_y = y - top;
    *at = ((int32_t)top + EDGE) * (width + 2 * EDGE) + ((int32_t)left + EDGE);
}

/* Where a row of the result lies. */
static void places_of(int height, int width, float x, float step_x, float y, float step_y, int32_t *restrict at,
                      float *restrict share_x, float *restrict share_y) {
    for (int i = 0; i < width; i++) {
        float px = x + step_x * (float)i, py = y + step_y * (float)i;
        put_place(px, py, height, width, at + i, share_x + i, share_y + i);
    }
}

/* Rows that shift by part of a pixel or whole ones: shears along x and shifts. */
static void shift_rows(Scratch *s, int height, int width, const float matrix[6], Axis rows, float *to) {
    int64_t count = (int64_t)height * width;
    for (int y = 0; y < height; y++) {
        int at = rows.origin + rows.direction * y;
        float shift = matrix[1] * ((float)at - (float)(height - 1) / 2.0f) + matrix[2], whole = floorf(shift);
        float share = shift - whole;
        int from = within((double)at + matrix[5], -1, height), k = within(whole, -width - 1, width);
        for (int c = 0; c < 3; c++) {
            float *restrict row = to + c * count + (int64_t)y * width;
            memset(row, 0, width * sizeof(float));
            if (from < 0 || from >= height) continue;
            const float *restrict source = s->moved + c * count + (int64_t)from * width;
            for (int x = k < 0 ? -k : 0; x < (k > 0 ? width - k : width); x++) row[x] = source[x + k] * (1.0f - share);
            for (int x = k < -1 ? -k - 1 : 0; x < (k > -1 ? width - k - 1 : width); x++) row[x] += source[x + k + 1] * share;
        }
    }
}

/* The pixels in scratch->moved to scratch->pixels, with a black edge. */
static void add_edge(Scratch *s, int height, int width) {
    int stride = width + 2 * EDGE;
    int64_t count = (int64_t)height * width;
    memset(s->pixels, 0, (size_t)(height + 2 * EDGE) * stride * 4 * sizeof(float));
    for (int y = 0; y < height; y++) {
        const float *row = s->moved + (int64_t)y * width;
        interleave(row, row + count, row + 2 * count, width, s->pixels + 4 * ((int64_t)(y + EDGE) * stride + EDGE));
    }
}

/* A row of the result, whose places are in scratch, from scratch->pixels. */
static void blend_row(Scratch *s, int width, float *row, int64_t count) {
    int stride = width + 2 * EDGE;
    for (int x = 0; x < width; x++) {
        const float *from = s->pixels + 4 * (int64_t)s->starts[0][x];
        Pixel above = *(const Pixel *)from, below = *(const Pixel *)(from + 4 * (int64_t)stride);
        above += (*(const Pixel *)(from + 4) - above) * s->weights[0][x];
        below += (*(const Pixel *)(from + 4 * (int64_t)stride + 4) - below) * s->weights[0][x];
        *(Pixel *)(s->line + 4 * (int64_t)x) = above + (below - above) * s->weights[1][x];
    }
    separate(s->line, width, row, row + count, row + 2 * count);
}

/* The projective map that takes corners (x, y, clockwise from top left) to those of the image: geometry._quad_to_rectangle. */
static void map_of(const double corners[8], int height, int width, float map[9]) {
    double x0 = corners[0], y0 = corners[1], x1 = corners[2], y1 = corners[3];
    double x2 = corners[4], y2 = corners[5], x3 = corners[6], y3 = corners[7];
    double sum_x = x0 - x1 + x2 - x3, sum_y = y0 - y1 + y2 - y3;
    double dx1 = x1 - x2, dx2 = x3 - x2, dy1 = y1 - y2, dy2 = y3 - y2, det = dx1 * dy2 - dx2 * dy1;
    double g = (sum_x * dy2 - dx2 * sum_y) / det, h = (dx1 * sum_y - sum_x * dy1) / det;
    double a = x1 - x0 + g * x1, b = x3 - x0 + h * x3, c = x0, d = y1 - y0 + g * y1, e = y3 - y0 + h * y3, f = y0;
    double all[9] = {e - f * h, c * h - b, b * f - c * e, f * g - d, a - c * g, c * d - a * f, d * h - e * g, b * g - a * h,
                     a * e - b * d};
    double last = all[8];
    int is_finite = 1;
    for (int i = 0; i < 9; i++) {
        all[i] = all[i] * (i < 3 ? width - 1 : (i < 6 ? height - 1 : 1)) / last;
        is_finite = is_finite && isfinite(all[i]);
    }
    for (int i = 0; i < 9; i++) map[i] = is_finite ? (float)all[i] : (float)(i % 4 == 0); /* else nothing moves */
}

/* As ``places_of``, where the map of a perspective takes the centres of pixels. */
static void places_through(int height, int width, const float map[9], Axis columns, float y, int32_t *restrict at,
                           float *restrict share_x, float *restrict share_y) {
    float right = map[1] * y + map[2], down = map[4] * y + map[5], away = map[7] * y + map[8];
    float origin = (float)columns.origin + 0.5f, direction = (float)columns.direction;
    for (int i = 0; i < width; i++) {
        float x = origin + direction * (float)i, below = map[6] * x + away;
        float px = (map[0] * x + right) / below - 0.5f, py = (map[3] * x + down) / below - 0.5f;
        put_place(px, py, height, width, at + i, share_x + i, share_y + i);
    }
}

/* Bilinear sampling of scratch->moved by a matrix about the centre; black comes from outside. */
static void warp(Scratch *s, int height, int width, const float matrix[6], Axis rows, Axis columns, float *to) {
    if (matrix[0] == 1.0f && matrix[3] == 0.0f && matrix[4] == 1.0f && matrix[5] == floorf(matrix[5]) &&
        columns.direction > 0) {
        shift_rows(s, height, width, matrix, rows, to);
        return;
    }
    add_edge(s, height, width);
    float centre_x = (float)(width - 1) / 2.0f, centre_y = (float)(height - 1) / 2.0f;
    float u = (float)columns.origin - centre_x, direction = (float)columns.direction;
    for (int y = 0; y < height; y++) {
        float v = (float)(rows.origin + rows.direction * y) - centre_y;
        places_of(height, width, matrix[0] * u + matrix[1] * v + matrix[2] + centre_x,
                  matrix[0] * direction, matrix[3] * u + matrix[4] * v + matrix[5] + centre_y, matrix[3] * direction,
                  s->starts[0], s->weights[0], s->weights[1]);
        blend_row(s, width, to + (int64_t)y * width, (int64_t)height * width);
    }
}

/* Bilinear sampling of scratch->moved by a projective map; black comes from outside. */
static void project(Scratch *s, int height, int width, const float map[9], Axis rows, Axis columns, float *to) {
    add_edge(s, height, width);
    for (int y = 0; y < height; y++) {
        places_through(height, width, map, columns, (float)(rows.origin + rows.direction * y) + 0.5f, s->starts[0], s->weights[0], s->weights[1]);
        blend_row(s, width, to + (int64_t)y * width, (int64_t)height * width);
    }
}
