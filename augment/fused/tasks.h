/* A pass over an image: its records, as augment/fused/passes.py encodes them, and the drawn numbers that they name. */

#define RADIANS 0.017453292519943295

typedef struct {
    const Pass *pass;
    const StepRecord *step; /* its resampling */
    const Drawn *drawn;
    int64_t image, partner;
    Scratch *scratch;
    Image from, from_partner;
    int height, width; /* behind its moves */
    Axis rows, columns;
} Task;

static double number(const Task *task, int64_t which, int64_t place) {
    const Drawn *drawn = task->drawn + which;
    switch (drawn->type) {
    case TYPE_BOOL: return ((const uint8_t *)drawn->values)[place];
    case TYPE_INT64: return (double)((const int64_t *)drawn->values)[place];
    default: return ((const float *)drawn->values)[place];
    }
}

/* Flips and crops along an axis: 0 rows and 1 columns before the resampling, 2 and 3 those behind it. */
static Axis moved(const Task *task, Axis axis, int which) {
    for (int n = 0; n < task->pass->move_count; n++) {
        const MoveRecord *move = task->pass->moves + n;
        if (move->axis != which) continue;
        int offset = (int)move->offset;
        if (move->kind == MOVE_FLIP) {
            if (number(task, move->start, task->image) != 0.0) {
                axis.origin += axis.direction * offset;
                axis.direction = -axis.direction;
            }
        } else {
            double start = move->kind == MOVE_SHIFT ? 0.0 : number(task, move->start, task->image);
            axis.is_reflected = move->kind == MOVE_REFLECT;
            axis.origin += axis.direction * (within(start, -(1 << 28), 1 << 28) + offset);
        }
    }
    return axis;
}

/* Pixels first .. first + count - 1 of an axis. */
static Axis from_place(Axis axis, int first) {
    axis.origin += axis.direction * first;
    return axis;
}

/* The point op that an image goes through in a step, and its strength. */
static int drawn_point(const Task *task, const StepRecord *step, float *strength) {
    if (step->change == CHANGE_POLICY) {
        int64_t place = task->image * step->places + step->place;
        *strength = (float)number(task, step->first + 1, place * ARGUMENTS);
        return within(number(task, step->first, place), 0, POINT_COUNT);
    }
    *strength = step->strengths < 0 ? (float)step->strength : (float)number(task, step->strengths, task->image);
    return step->applied < 0 || number(task, step->applied, task->image) != 0.0 ? (int)step->point : POINT_IDENTITY;
}

typedef struct {
    int32_t top, left, height, width;
} Window;

/* The rectangle (top, left, height, width) drawn from ``first`` on, cut at the border of height x width pixels. */
static Window window_of(const Task *task, int64_t first, int height, int width) {
    double top = number(task, first, task->image), left = number(task, first + 1, task->image);
    int y = within(ceil(top), 0, height), x = within(ceil(left), 0, width);
    int bottom = within(ceil(top + number(task, first + 2, task->image)), y, height);
    int right = within(ceil(left + number(task, first + 3, task->image)), x, width);
    return (Window){y, x, bottom - y, right - x};
}

/* The matrix of degrees (clockwise), a shift in pixels, a factor and degrees along x: geometry.affine. */
static void affine_of(double degrees, double x, double y, double scale, double shear, float *matrix) {
    double angle = degrees * RADIANS, tangent = tan(shear * RADIANS);
    double a = (cos(angle) - sin(angle) * tangent) / scale, b = (cos(angle) * tangent + sin(angle)) / scale;
    double c = -sin(angle) / scale, d = cos(angle) / scale;
    double all[6] = {a, b, -(a * x + b * y), c, d, -(c * x + d * y)};
    for (int i = 0; i < 6; i++) matrix[i] = (float)all[i];
}

/* Whether an image is warped in this pass: 0 not, 1 by a matrix, 2 by a projective map. */
static int warped(const Task *task, float map[9]) {
    const StepRecord *step = task->step;
    int64_t first = step->first, place = task->image * step->places + step->place;
    float strength;
    double corners[8];
    switch (step->sampler) {
    case SAMPLER_AFFINE:
        affine_of(number(task, first, task->image), number(task, first + 1, task->image), number(task, first + 2, task->image),
                  number(task, first + 3, task->image), number(task, first + 4, task->image), map);
        return 1;
    case SAMPLER_ROTATE: affine_of(-number(task, first, task->image), 0.0, 0.0, 1.0, 0.0, map); return 1;
    case SAMPLER_NEIGHBOURS:
        if (drawn_point(task, step, &strength) != POINT_WARP) return 0;
        for (int i = 0; i < 6; i++) map[i] = (float)number(task, first + 1, place * ARGUMENTS + i);
        return 1;
    case SAMPLER_PERSPECTIVE:
        if (number(task, step->applied, task->image) == 0.0) return 0;
        for (int i = 0; i < 8; i++) corners[i] = number(task, first + 1, task->image * 8 + i);
        map_of(corners, task->height, task->width, map);
        return 2;
    }
    return 0;
}
