/* Decode, crop, flip and normalize one sample in a single pass, while its pixels are in the CPU's cache.
 *
 * DALI calls `alexstream_sample` for every sample of a batch, in the threads of its own pool (graph.py adds it to the
 * graph as an operator; fused.py writes its input rows). The result equals that of DALI's decoder followed by finish.py
 * bit for bit: the same libjpeg-turbo settings, the same two roundings in the same order. It is optional: where it does
 * not compile, the stream uses DALI's decoder and finish.py.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jpeglib.h>

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 1005000
#error "libjpeg-turbo 1.5 or newer is required: older ones decode to other pixels than DALI"
#endif

enum { CROP = 224, CHANNELS = 3, ROWS_AT_ONCE = 8, MOST_EDGE = 65500, JPEG_TABLES = 64 << 10 };

/* The input for one sample, the same struct as fused.py's ROW: where its bytes are, how to crop and normalize it, where
 * to write it. Increment VERSION, here and in fused.py, with every change of this struct or of the answer. */
typedef struct {
    int64_t fd, offset, size; /* the stored sample */
    int64_t edge;             /* stored height and width, pixels */
    int64_t raw;              /* 1: pixels, 0: a JPEG */
    int64_t y, x, flip;       /* corner of the crop; 1: mirrored */
    const float *mean;        /* first value of the mean's window, in three planes of mean_edge x mean_edge floats */
    int64_t mean_edge, mean_flip; /* mean_flip: the window is mirrored too */
    float *out; /* (3, CROP, CROP) */
    float rgb[CHANNELS], divisor[CHANNELS];
} row_t;

/* The outcome of a sample: indexes into OUTCOMES of errors.py. */
enum { DONE, UNREADABLE, CUT_OFF, UNDECODABLE, OTHER_SIZE, NO_MEMORY };

/* The words of an answer: the outcome, then the nanoseconds that each stage took. */
enum { OUTCOME, READ, DECODE, FINISH, ANSWERS };

/* fused.py compares this when it loads the operator: a build of another version would misread the rows. */
enum { VERSION = 2 };
const int64_t alexstream_interface[] = {VERSION, sizeof(row_t), offsetof(row_t, mean), offsetof(row_t, out), ANSWERS};

typedef struct {
    struct jpeg_error_mgr manager;
    jmp_buf escape;
} errors_t;

/* The state of a thread, reused from sample to sample. */
typedef struct {
    struct jpeg_decompress_struct jpeg;
    errors_t errors;
    uint8_t *stored, *pixels;
    size_t stored_room, pixels_room;
    int64_t now;     /* time of the last call of spent_on, ns */
    int64_t *answer; /* of the current sample */
} worker_t;

static pthread_key_t worker_key;
static pthread_once_t worker_once = PTHREAD_ONCE_INIT;

/* libjpeg's default handler would end the process. */
static void leave(j_common_ptr jpeg) { longjmp(((errors_t *)jpeg->err)->escape, 1); }

static void count_warning(j_common_ptr jpeg, int level) {
    if (level < 0) jpeg->err->num_warnings++;
}

static void retire(void *worker) {
    worker_t *w = worker;
    jpeg_destroy_decompress(&w->jpeg);
    free(w->stored);
    free(w->pixels);
    free(w);
}

static void make_key(void) { pthread_key_create(&worker_key, retire); }

static worker_t *this_worker(void) {
    pthread_once(&worker_once, make_key);
    worker_t *w = pthread_getspecific(worker_key);
    if (w) return w;
    w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->jpeg.err = jpeg_std_error(&w->errors.manager);
    w->errors.manager.error_exit = leave;
    w->errors.manager.emit_message = count_warning;
    if (setjmp(w->errors.escape)) {
        free(w);
        return NULL;
    }
    jpeg_create_decompress(&w->jpeg);
    pthread_setspecific(worker_key, w);
    return w;
}

static int make_room(uint8_t **memory, size_t *room, size_t wanted) {
    if (*room >= wanted) return 1;
    free(*memory);
    *memory = malloc(wanted);
    *room = *memory ? wanted : 0;
    return *memory != NULL;
}

/* Add the time since the last call to a stage (none for OUTCOME, which restarts the clock). A call takes 25 ns. */
static void spent_on(worker_t *w, int stage) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t now = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    if (stage != OUTCOME) w->answer[stage] += now - w->now;
    w->now = now;
}

static int read_stored(worker_t *w, int64_t fd, int64_t offset, size_t size) {
    if (!make_room(&w->stored, &w->stored_room, size)) return NO_MEMORY;
    for (size_t have = 0; have < size;) {
        ssize_t got = pread((int)fd, w->stored + have, size - have, offset + (int64_t)have);
        if (got == 0) return CUT_OFF;
        if (got < 0 && errno != EINTR) return UNREADABLE;
        if (got > 0) have += (size_t)got;
    }
    return DONE;
}

/* Normalize row y of the crop: interleaved RGB bytes to a row of each of three float planes. */
static void finish_row(const row_t *s, const uint8_t *rgb, int y) {
    for (int c = 0; c < CHANNELS; c++) {
        const float *mean = s->mean + (c * s->mean_edge + y) * s->mean_edge;
        float *out = s->out + (c * CROP + y) * CROP;
        for (int x = 0; x < CROP; x++) {
            int from = s->flip ? CROP - 1 - x : x;
            out[x] = ((float)rgb[CHANNELS * from + c] - mean[s->mean_flip ? CROP - 1 - x : x]) + s->rgb[c];
        }
        if (s->divisor[c] != 1.0f)
            for (int x = 0; x < CROP; x++) out[x] /= s->divisor[c];
    }
}

#if defined(__x86_64__)
#include <immintrin.h>

/* Return channel c of 16 pixels, from 48 bytes of interleaved RGB; mirrored if flip is 1. */
__attribute__((target("avx2"))) static inline __m128i channel(const uint8_t *rgb, int c, int flip) {
    __m128i plane = _mm_setzero_si128();
    for (int part = 0; part < 3; part++) {
        uint8_t pick[16];
        for (int i = 0; i < 16; i++) {
            int byte = CHANNELS * (flip ? 15 - i : i) + c - 16 * part;
            pick[i] = byte >= 0 && byte < 16 ? (uint8_t)byte : 0x80;
        }
        __m128i bytes = _mm_loadu_si128((const __m128i *)(rgb + 16 * part));
        plane = _mm_or_si128(plane, _mm_shuffle_epi8(bytes, _mm_loadu_si128((const __m128i *)pick)));
    }
    return plane;
}

__attribute__((target("avx2"))) static inline __m256 turned(__m256 eight) {
    return _mm256_permutevar8x32_ps(eight, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

/* finish_row with non-temporal stores: the batch is far larger than the cache, where the mean image should stay.
 * Where pixels and mean are both mirrored, neither is mirrored when read, but the result when written. */
__attribute__((target("avx2"))) static inline void stream_row(const row_t *s, const uint8_t *rgb, int y, int flip,
                                                              int mean_flip) {
    for (int x = 0; x < CROP; x += 16) {
        const uint8_t *block = rgb + CHANNELS * (flip && !mean_flip ? CROP - 16 - x : x);
#pragma GCC unroll 3
        for (int c = 0; c < CHANNELS; c++) {
            const float *mean = s->mean + (c * s->mean_edge + y) * s->mean_edge + x;
            float *out = s->out + (c * CROP + y) * CROP;
            const __m256 light = _mm256_set1_ps(s->rgb[c]);
            __m128i bytes = channel(block, c, flip && !mean_flip);
            for (int half = 0; half < 16; half += 8, bytes = _mm_srli_si128(bytes, 8)) {
                __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
                value = _mm256_add_ps(_mm256_sub_ps(value, _mm256_loadu_ps(mean + half)), light);
                if (s->divisor[c] != 1.0f) value = _mm256_div_ps(value, _mm256_set1_ps(s->divisor[c]));
                _mm256_stream_ps(out + (mean_flip ? CROP - 8 - x - half : x + half), mean_flip ? turned(value) : value);
            }
        }
    }
}

__attribute__((target("avx2"))) static void stream_plain(const row_t *s, const uint8_t *rgb, int y) {
    stream_row(s, rgb, y, 0, 0);
}

__attribute__((target("avx2"))) static void stream_flipped(const row_t *s, const uint8_t *rgb, int y) {
    stream_row(s, rgb, y, 1, 0);
}

__attribute__((target("avx2"))) static void stream_both_flipped(const row_t *s, const uint8_t *rgb, int y) {
    stream_row(s, rgb, y, 1, 1);
}

static void fence(void) { _mm_sfence(); }
#else
static void fence(void) {}
#endif

typedef void (*finish_t)(const row_t *, const uint8_t *, int);

static finish_t finish_of(const row_t *s) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && (uintptr_t)s->out % 32 == 0)
        return s->mean_flip ? stream_both_flipped : s->flip ? stream_flipped : stream_plain;
#endif
    return finish_row;
}

/* Check that crop and mean window lie within their images, and that the sample's length is possible (as
 * stored_sample.SampleChecker does), so that a damaged catalog cannot make us read or write out of bounds. */
static int is_plausible(const row_t *s) {
    if (s->edge < CROP || s->edge > MOST_EDGE || s->mean_edge < CROP || s->mean_edge > MOST_EDGE) return 0;
    if (s->y < 0 || s->x < 0 || s->y > s->edge - CROP || s->x > s->edge - CROP) return 0;
    const int64_t pixels = CHANNELS * s->edge * s->edge;
    return s->raw ? s->size == pixels : s->size >= 0 && s->size <= 2 * pixels + JPEG_TABLES;
}

static int from_pixels(worker_t *w, const row_t *s) {
    const size_t stride = (size_t)s->edge * CHANNELS;
    int read = read_stored(w, s->fd, s->offset + s->y * (int64_t)stride, CROP * stride);
    spent_on(w, READ);
    if (read != DONE) return read;
    finish_t finish = finish_of(s);
    for (int y = 0; y < CROP; y++) finish(s, w->stored + y * stride + s->x * CHANNELS, y);
    spent_on(w, FINISH);
    return DONE;
}

static int from_jpeg(worker_t *w, const row_t *s) {
    struct jpeg_decompress_struct *jpeg = &w->jpeg;
    const size_t stride = (size_t)s->edge * CHANNELS;
    int read = read_stored(w, s->fd, s->offset, (size_t)s->size);
    spent_on(w, READ);
    if (read != DONE) return read;
    if (!make_room(&w->pixels, &w->pixels_room, ROWS_AT_ONCE * stride)) return NO_MEMORY;
    if (setjmp(w->errors.escape)) {
        jpeg_abort_decompress(jpeg);
        return UNDECODABLE;
    }
    w->errors.manager.num_warnings = 0;
    jpeg_mem_src(jpeg, w->stored, (unsigned long)s->size);
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->image_width != s->edge || jpeg->image_height != s->edge) {
        jpeg_abort_decompress(jpeg);
        return OTHER_SIZE;
    }
    if (jpeg_has_multiple_scans(jpeg) || jpeg->arith_code) { /* not ours; all of any number of scans would be read */
        jpeg_abort_decompress(jpeg);
        return UNDECODABLE;
    }
    jpeg->out_color_space = JCS_RGB;
    jpeg->dct_method = JDCT_ISLOW;
    jpeg->do_fancy_upsampling = TRUE;
    jpeg_start_decompress(jpeg);
    if (s->y) jpeg_skip_scanlines(jpeg, (JDIMENSION)s->y);
    finish_t finish = finish_of(s);
    for (int y = 0; y < CROP;) {
        JSAMPROW rows[ROWS_AT_ONCE];
        for (int i = 0; i < ROWS_AT_ONCE; i++) rows[i] = w->pixels + i * stride;
        int left = CROP - y, got = (int)jpeg_read_scanlines(jpeg, rows, left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE);
        if (got <= 0) {
            jpeg_abort_decompress(jpeg);
            return UNDECODABLE;
        }
        spent_on(w, DECODE);
        for (int i = 0; i < got; i++) finish(s, rows[i] + s->x * CHANNELS, y + i);
        y += got;
        spent_on(w, FINISH);
    }
    long warnings = w->errors.manager.num_warnings;
    jpeg_abort_decompress(jpeg);
    spent_on(w, DECODE);
    return warnings ? UNDECODABLE : DONE;
}

/* Process one sample. The signature is that of DALI's run functions: addresses of outputs and inputs, their shapes and
 * their numbers of dimensions. Input 0 is a row_t; output 0 has the same length, and begins with the answer. */
void alexstream_sample(const uint64_t *outputs, uint64_t out_shapes, uint64_t out_ndims, int32_t num_outputs,
                       const uint64_t *inputs, uint64_t in_shapes, uint64_t in_ndims, int32_t num_inputs) {
    (void)out_shapes, (void)out_ndims, (void)num_outputs, (void)in_shapes, (void)in_ndims, (void)num_inputs;
    const row_t *s = (const row_t *)(uintptr_t)inputs[0];
    int64_t *answer = (int64_t *)(uintptr_t)outputs[0];
    memset(answer, 0, ANSWERS * sizeof *answer);
    if (!is_plausible(s)) {
        answer[OUTCOME] = OTHER_SIZE;
        return;
    }
    worker_t *w = this_worker();
    if (!w) {
        answer[OUTCOME] = NO_MEMORY;
        return;
    }
    w->answer = answer;
    spent_on(w, OUTCOME);
    answer[OUTCOME] = s->raw ? from_pixels(w, s) : from_jpeg(w, s);
    fence();
}
