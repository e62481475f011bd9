/* Passes of augment/passes.py on a CPU, image by image, so that what is worked on stays in the cache.
 *
 * Numbers of ways, samplers, draws and moves, and the weights of a grey version, come from the compiler's command line, where
 * augment/native_build.py puts those of the Python tables. augment/kernels.py and augment/geometry.py define what is done here,
 * and it is tested against them. Images are planar: three planes of height x width values. What was drawn is not trusted:
 * windows are cut at the image's border, and unknown ways do nothing.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "native_draws.h"
#include "native_pixels.h"
#include "native_places.h"
#include "native_tasks.h"
#include "native_values.h"

static const int JITTERS[4] = {WAY_BRIGHTNESS, WAY_CONTRAST, WAY_SATURATION, WAY_HUE};

/* Of the four only those that the op may do. */
static void jitter(const Task *task, const double *step, float *planes, int64_t count) {
    for (int turn = 0; turn < 4; turn++) {
        int kind = within(number(task, (int)step[1], task->image * 4 + turn), 0, 3);
        if (!((int)step[2] >> JITTERS[kind] & 1)) continue;
        float strength = (float)number(task, (int)step[1] + 1, task->image * 4 + kind);
        change(planes, count, JITTERS[kind], strength, (uint8_t *)task->scratch->pixels);
    }
}

static void erase(const Task *task, const double *step, float *planes, const float *value) {
    int height = task->pass->sizes[4], width = task->pass->sizes[5];
    Window hidden = window_of(task, (int)step[1], height, width);
    for (int c = 0; c < 3; c++)
        for (int y = hidden.top; y < hidden.top + hidden.height; y++) {
            float *row = planes + ((int64_t)c * height + y) * width + hidden.left;
            for (int x = 0; x < hidden.width; x++) row[x] = value[c];
        }
}

static void normalize(const double *numbers, float *planes, int64_t count) {
    for (int c = 0; c < 3; c++) {
        float gain = (float)numbers[2 * c], bias = (float)numbers[2 * c + 1], *restrict plane = planes + c * count;
        for (int64_t i = 0; i < count; i++) plane[i] = plane[i] * gain + bias;
    }
}

static void resized_window(const Task *task, Image from, Axis rows, Axis columns, float *to) {
    const Pass *pass = task->pass;
    const double *step = pass->steps[0];
    int height = pass->sizes[2], width = pass->sizes[3];
    Window window = {0, 0, height, width};
    if ((int)step[0] == SAMPLER_WINDOW) {
        window = window_of(task, (int)step[1], height, width);
        if (window.height < 1 || window.width < 1) window = (Window){0, 0, height, width};
    }
    /* Rows of whole blocks, whatever lies beside the window: loops without a rest are much faster. */
    int stride = (window.width + BLOCK - 1) / BLOCK * BLOCK;
    read_image(from, from_place(rows, window.top), from_place(columns, window.left), window.height, stride,
               task->scratch->moved, (int64_t)window.height * stride, stride, NULL);
    resize(task->scratch, window.height, window.width, stride, pass->sizes[4], pass->sizes[5], (int)step[5],
           move(task, FORWARDS, 2), move(task, FORWARDS, 3), to);
}

/* What an image's partner gives, and the partner's own flips and crops. */
static void mix(const Task *task, Image partner, int64_t other, float *to) {
    const Pass *pass = task->pass;
    const double *step = pass->steps[0];
    int height = pass->sizes[4], width = pass->sizes[5];
    int64_t count = (int64_t)height * width;
    Task its = *task;
    its.image = other;
    Axis rows = move(&its, move(&its, FORWARDS, 0), 2), columns = move(&its, move(&its, FORWARDS, 1), 3);
    if ((int)step[0] == SAMPLER_CUTMIX) {
        Window seen = window_of(task, (int)step[1], height, width);
        read_image(partner, from_place(rows, seen.top), from_place(columns, seen.left), seen.height, seen.width,
                   to + (int64_t)seen.top * width + seen.left, count, width, NULL);
        return;
    }
    float *restrict moved = task->scratch->moved, *restrict result = to, share = (float)number(task, (int)step[1], task->image);
    read_image(partner, rows, columns, height, width, moved, count, width, NULL);
    for (int64_t i = 0; i < 3 * count; i++) result[i] = result[i] * share + moved[i] * (1.0f - share);
}

/* One op of a policy on the image in scratch->moved. */
static void change_moved(Scratch *s, int height, int width, int way, const float arguments[6]) {
    int64_t count = (int64_t)height * width;
    if (way == WAY_WARP) {
        warp(s, height, width, arguments, FORWARDS, FORWARDS, s->spare);
    } else if (way == WAY_SHARPNESS && height > 2 && width > 2) {
        for (int c = 0; c < 3; c++)
            sharpen(s->moved + c * count, height, width, arguments[0], s->line, s->spare + c * count);
    } else {
        change(s->moved, count, way, arguments[0], (uint8_t *)s->pixels);
        return;
    }
    float *before = s->moved;
    s->moved = s->spare;
    s->spare = before;
}

/* AugMix: chains of ops, each on the image itself, summed with their weights. */
static void mix_chains(const Task *task, Image from, Axis rows, Axis columns, float *to) {
    const double *step = task->pass->steps[0];
    int height = task->pass->sizes[2], width = task->pass->sizes[3], first = (int)step[1], chains = (int)step[5];
    int64_t count = (int64_t)height * width, place = task->image * (1 + chains);
    float *restrict result = to, share = (float)number(task, first + 2, place);
    read_image(from, rows, columns, height, width, to, count, width, NULL);
    for (int64_t i = 0; i < 3 * count; i++) result[i] *= share;
    for (int chain = 0; chain < chains; chain++) {
        read_image(from, rows, columns, height, width, task->scratch->moved, count, width, NULL);
        for (int n = 0; n < CHAIN; n++) {
            int64_t at = (task->image * chains + chain) * CHAIN + n;
            float arguments[6];
            for (int i = 0; i < 6; i++) arguments[i] = (float)number(task, first + 1, at * 6 + i);
            change_moved(task->scratch, height, width, within(number(task, first, at), 0, 255), arguments);
        }
        const float *restrict changed = task->scratch->moved;
        share = (float)number(task, first + 2, place + 1 + chain);
        for (int64_t i = 0; i < 3 * count; i++) result[i] += changed[i] * share;
    }
}

/* Samplers that look at pixels beside: whether the pass has one, and its result. */
static int sample_beside(const Task *task, Image from, Axis rows, Axis columns, float *to) {
    const double *step = task->pass->steps[0];
    int height = task->pass->sizes[2], width = task->pass->sizes[3], first = (int)step[1];
    int64_t count = (int64_t)height * width;
    float *moved = task->scratch->moved, strength;
    if ((int)step[0] == SAMPLER_CHOSEN && height > 2 && width > 2 &&
        drawn_way(task, step, (int)step[7], &strength) == WAY_SHARPNESS) {
        read_image(from, rows, columns, height, width, moved, count, width, NULL);
        for (int c = 0; c < 3; c++) sharpen(moved + c * count, height, width, strength, task->scratch->line, to + c * count);
        return 1;
    }
    if ((int)step[0] == SAMPLER_BLUR) {
        float *weights = task->scratch->weights[0];
        int taps = (int)step[5];
        gaussian((float)number(task, first, task->image), taps, weights);
        read_image(from, rows, columns, height, width, moved, count, width, NULL);
        for (int c = 0; c < 3; c++)
            blur(moved + c * count, height, width, weights, taps, task->scratch->line, task->scratch->starts[0], to + c * count);
        return 1;
    }
    return 0;
}

/* Pixels before any change of values. */
static void sample(const Task *task, Image from, Image partner, int64_t other, float *to, const float *normal) {
    const int32_t *sizes = task->pass->sizes;
    const double *step = task->pass->steps[0];
    int sampler = (int)step[0], height = sizes[2], width = sizes[3];
    int64_t count = (int64_t)height * width;
    Axis rows = move(task, FORWARDS, 0), columns = move(task, FORWARDS, 1);
    float matrix[6];
    if (sampler == SAMPLER_WINDOW || sampler == SAMPLER_RESIZE) {
        resized_window(task, from, rows, columns, to);
        return;
    }
    if (warped(task, matrix)) {
        read_image(from, rows, columns, height, width, task->scratch->moved, count, width, NULL);
        warp(task->scratch, height, width, matrix, move(task, FORWARDS, 2), move(task, FORWARDS, 3), to);
        return;
    }
    if (sampler == SAMPLER_AUGMIX) {
        mix_chains(task, from, rows, columns, to);
        return;
    }
    if (sampler == SAMPLER_PERSPECTIVE && number(task, (int)step[1], task->image) != 0.0) {
        double corners[8];
        float map[9];
        for (int i = 0; i < 8; i++) corners[i] = number(task, (int)step[1] + 1, task->image * 8 + i);
        map_of(corners, height, width, map);
        read_image(from, rows, columns, height, width, task->scratch->moved, count, width, NULL);
        project(task->scratch, height, width, map, move(task, FORWARDS, 2), move(task, FORWARDS, 3), to);
        return;
    }
    rows = move(task, rows, 2);
    columns = move(task, columns, 3);
    if (sample_beside(task, from, rows, columns, to)) return;
    read_image(from, rows, columns, height, width, to, count, width, normal);
    if (sampler == SAMPLER_MIXUP || sampler == SAMPLER_CUTMIX) mix(task, partner, other, to);
}

/* Whether bytes only move, are erased and then normalised: gain and bias of each channel for that, and what erased is. */
static int is_simple(const Pass *pass, Image from, float normal[6]) {
    int last = pass->step_count - 1;
    if (!from.is_bytes || last < 1 || (int)pass->steps[0][0] != SAMPLER_TAKE) return 0;
    if ((int)pass->steps[last][0] != DRAW_NORMALIZE) return 0;
    for (int n = 1; n < last; n++)
        if ((int)pass->steps[n][0] != DRAW_ERASE) return 0;
    for (int c = 0; c < 3; c++) {
        normal[2 * c] = (float)(pass->steps[last][7 + 2 * c] / 255.0);
        normal[2 * c + 1] = (float)pass->steps[last][8 + 2 * c];
    }
    return 1;
}

static void run_pass(const Task *task, Image from, Image partner, int64_t other, float *to) {
    const Pass *pass = task->pass;
    int64_t count = (int64_t)pass->sizes[4] * pass->sizes[5];
    float normal[6];
    int simple = is_simple(pass, from, normal);
    sample(task, from, partner, other, to, simple ? normal : NULL);
    for (int n = 1; n < pass->step_count; n++) {
        const double *step = pass->steps[n];
        int kind = (int)step[0];
        if (kind == DRAW_ERASE) {
            float value[3];
            for (int c = 0; c < 3; c++)
                value[c] = simple ? (float)step[6] * normal[2 * c] * 255.0f + normal[2 * c + 1] : (float)step[6];
            erase(task, step, to, value);
        } else if (kind == DRAW_NORMALIZE) {
            if (!simple) normalize(step + 7, to, count);
        } else if (kind == DRAW_JITTER) {
            jitter(task, step, to, count);
        } else if (kind == DRAW_NOISE) {
            const float *noise = task->drawn[pass->first_drawn + (int)step[1]].values;
            add_noise(to, noise + task->image * 3 * count, 3 * count);
        } else {
            float strength;
            int way = drawn_way(task, step, kind, &strength);
            change(to, count, way, strength, (uint8_t *)task->scratch->pixels);
        }
    }
}

/* Images first .. end - 1 of a batch through all passes; only the first pass may mix images. ``to`` are values of ``type``
 * [batch, 3, height, width] of the last pass's size. Returns 0, or 1 where memory is short. */
int augment_images(const Pass *passes, int32_t pass_count, const Drawn *drawn, const Batch *images, int64_t batch,
                   int64_t first, int64_t end, int32_t type, void *to) {
    int64_t height = 0, width = 0;
    for (int n = 0; n < pass_count; n++)
        for (int i = 0; i < 6; i += 2) {
            height = passes[n].sizes[i] > height ? passes[n].sizes[i] : height;
            width = passes[n].sizes[i + 1] > width ? passes[n].sizes[i + 1] : width;
        }
    width += BLOCK; /* rows may be filled up to whole blocks */
    int64_t planes = 3 * height * width, longer = (height > width ? height : width) + 2 * EDGE;
    int64_t pixels = 4 * (height + 2 * EDGE) * (width + 2 * EDGE) + 8 * longer, taps = 6 * longer;
    float *memory = malloc((size_t)(4 * planes + pixels + 4 * longer + 4 * taps) * sizeof(float));
    if (!memory) return 1;
    float *next = memory, *between[2];
    Scratch scratch = {.moved = next};
    scratch.spare = next += planes;
    between[0] = next += planes;
    between[1] = next += planes;
    scratch.pixels = next += planes;
    scratch.line = next += pixels;
    scratch.weights[0] = next += 4 * longer;
    scratch.weights[1] = next += taps;
    scratch.starts[0] = (int32_t *)(next += taps);
    scratch.starts[1] = (int32_t *)(next += taps);
    const Pass *last = passes + pass_count - 1;
    int sampler = (int)passes->steps[0][0], mixes = sampler == SAMPLER_MIXUP || sampler == SAMPLER_CUTMIX;
    for (int64_t image = first; image < end; image++) {
        int64_t other = image ? image - 1 : batch - 1;
        /* In room that the first pass does not write to. */
        Image from = image_of(images, image, passes->sizes[0], passes->sizes[1], between[1]), partner = from;
        if (mixes) partner = image_of(images, other, passes->sizes[0], passes->sizes[1], scratch.spare);
        int64_t count = 3 * (int64_t)last->sizes[4] * last->sizes[5];
        for (int n = 0; n < pass_count; n++) {
            const Pass *pass = passes + n;
            int is_there = pass == last && type == PIXEL_FLOAT32;
            float *result = is_there ? place_in(to, type, image * count) : between[n % 2];
            Task task = {pass, drawn, image, &scratch};
            run_pass(&task, from, partner, other, result);
            from = (Image){result, 0, pass->sizes[4], pass->sizes[5]};
        }
        if (type != PIXEL_FLOAT32) store(from.values, count, type, place_in(to, type, image * count));
    }
    free(memory);
    return 0;
}
