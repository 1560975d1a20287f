/* Runs the compiled operator on the cases that come on stdin, each in a thread of its own, so that its buffers are as
 * long as the case needs and no longer: under AddressSanitizer a byte too far ends the process. Prints each outcome.
 */
#define _GNU_SOURCE
#include "fused.c"

#include <sys/mman.h>

enum { LARGEST_MEAN = 4096 };

/* What comes before the bytes of a sample; as sanitized.py's CASE. */
typedef struct {
    int64_t length, offset, size, edge, raw, y, x, flip, mean_edge, mean_flip, misaligned;
} case_t;

static int file;

static void *run(void *given) {
    const case_t *c = given;
    const int has_mean = c->mean_edge > 0 && c->mean_edge <= LARGEST_MEAN;
    /* From the first value of a window to its last. */
    const size_t window = has_mean ? (size_t)((2 * c->mean_edge + CROP - 1) * c->mean_edge + CROP) : 1;
    float *mean = calloc(window, sizeof *mean);
    const size_t pixels = CHANNELS * CROP * CROP * sizeof(float);
    uint8_t *out = NULL;
    if (!mean || posix_memalign((void **)&out, 64, pixels + (c->misaligned ? 4 : 0))) abort();
    float *first = (float *)(out + (c->misaligned ? 4 : 0));
    row_t row = {.fd = file, .offset = c->offset, .size = c->size, .edge = c->edge, .raw = c->raw, .y = c->y, .x = c->x,
                 .flip = c->flip, .mean = mean, .mean_edge = c->mean_edge, .mean_flip = c->mean_flip, .out = first,
                 .rgb = {1, -2, 3}, .divisor = {1, 2, 3}};
    int64_t answer[ANSWERS];
    uint64_t output = (uint64_t)(uintptr_t)answer, input = (uint64_t)(uintptr_t)&row;
    alexstream_sample(&output, 0, 0, 1, &input, 0, 0, 1);
    printf("%d\n", (int)answer[OUTCOME]);
    fflush(stdout);
    free(mean);
    free(out);
    return NULL;
}

int main(void) {
    case_t c;
    file = memfd_create("sample", 0);
    while (fread(&c, sizeof c, 1, stdin) == 1) {
        uint8_t *content = malloc((size_t)c.length + 1);
        if (!content || fread(content, 1, (size_t)c.length, stdin) != (size_t)c.length) return 2;
        if (ftruncate(file, 0) || pwrite(file, content, (size_t)c.length, 0) != (ssize_t)c.length) return 2;
        free(content);
        pthread_t thread;
        if (pthread_create(&thread, NULL, run, &c) || pthread_join(thread, NULL)) return 2;
    }
    return 0;
}
