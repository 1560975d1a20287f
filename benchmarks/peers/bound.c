/* The bound of the stream: what plain C on libjpeg-turbo reaches, one window of a JPEG after the other, without a
 * loader around it. For each image: decode the rows and columns of the crop, and one pass over them to float32 CHW,
 * minus the mean image, plus the lighting offset, mirrored or not. Raw pixels need the pass alone.
 *
 * cc -O3 -march=native -shared -fPIC bound.c -o bound.so -ljpeg -lpthread
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

#define CROP 224
#define SIZE 256
#define MAX_THREADS 16
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

typedef struct {
  struct jpeg_error_mgr manager;
  jmp_buf escape;
} escape_t;

/* n images: stored bytes and their sizes, corner, flip and offset of each; `mean` (256, 256, 3); `out` (n, 3, 224, 224) */
typedef struct {
  const uint8_t **stored;
  const int64_t *sizes;
  const int32_t *y, *x, *flip;
  const float *rgb, *mean;
  float *out;
  int begin, end, raw, failed;
} part_t;

static void on_error(j_common_ptr codec) { longjmp(((escape_t *)codec->err)->escape, 1); }

/* The one pass: `pixels` points at the crop's first pixel, rows are `stride` bytes apart. */
static void finish(const uint8_t *pixels, long stride, int y, int x, int flip, const float *mean, const float *rgb,
                   float *out) {
  for (int row = 0; row < CROP; row++) {
    const uint8_t *p = pixels + row * stride;
    const float *m = mean + ((y + row) * SIZE + x) * 3;
    float *red = out + row * CROP, *green = red + CROP * CROP, *blue = green + CROP * CROP;
    float r = rgb[0], g = rgb[1], b = rgb[2];
    if (!flip) {
      for (int i = 0; i < CROP; i++) {
        red[i] = p[3 * i] - m[3 * i] + r;
        green[i] = p[3 * i + 1] - m[3 * i + 1] + g;
        blue[i] = p[3 * i + 2] - m[3 * i + 2] + b;
      }
    } else {
      for (int i = 0; i < CROP; i++) {
        int k = CROP - 1 - i;
        red[i] = p[3 * k] - m[3 * k] + r;
        green[i] = p[3 * k + 1] - m[3 * k + 1] + g;
        blue[i] = p[3 * k + 2] - m[3 * k + 2] + b;
      }
    }
  }
}

/* Decodes the crop into `buffer`; `left` is the crop's first column there, since windows begin at whole blocks. */
static int decode(struct jpeg_decompress_struct *codec, const uint8_t *stored, int64_t size, int y, int x,
                  uint8_t *buffer, long *stride, long *left) {
  if (setjmp(((escape_t *)codec->err)->escape)) {
    jpeg_abort_decompress(codec);
    return -1;
  }
  jpeg_mem_src(codec, stored, size);
  jpeg_read_header(codec, TRUE);
  codec->out_color_space = JCS_RGB;
  jpeg_start_decompress(codec);
  JDIMENSION first = x, width = CROP;
  jpeg_crop_scanline(codec, &first, &width);
  if (y) jpeg_skip_scanlines(codec, y);
  *stride = (long)codec->output_width * 3;
  *left = x - (long)first;
  for (int got = 0; got < CROP;) {
    JSAMPROW rows[8];
    for (int k = 0; k < 8; k++) rows[k] = buffer + (got + k) * *stride;
    got += jpeg_read_scanlines(codec, rows, CROP - got < 8 ? CROP - got : 8);
  }
  jpeg_abort_decompress(codec);
  return 0;
}

static void *work(void *argument) {
  part_t *j = argument;
  struct jpeg_decompress_struct codec;
  escape_t errors;
  codec.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = on_error;
  jpeg_create_decompress(&codec);
  uint8_t *buffer = malloc(SIZE * (SIZE + 64) * 3);
  for (int i = j->begin; i < j->end; i++) {
    int y = j->y[i], x = j->x[i];
    const uint8_t *pixels = j->stored[i] + (y * SIZE + x) * 3;
    long stride = SIZE * 3, left;
    if (!j->raw) {
      if (decode(&codec, j->stored[i], j->sizes[i], y, x, buffer, &stride, &left)) {
        j->failed++;
        continue;
      }
      pixels = buffer + left * 3;
    }
    finish(pixels, stride, y, x, j->flip[i], j->mean, j->rgb + 3 * i, j->out + (long)i * 3 * CROP * CROP);
  }
  jpeg_destroy_decompress(&codec);
  free(buffer);
  return NULL;
}

/* Makes a batch of `count` images on `threads` threads; returns how many did not decode. */
int batch(const uint8_t **stored, const int64_t *sizes, const int32_t *y, const int32_t *x, const int32_t *flip,
          const float *rgb, const float *mean, float *out, int count, int threads, int raw) {
  pthread_t running[MAX_THREADS];
  part_t parts[MAX_THREADS];
  int failed = 0;
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  for (int k = 0; k < threads; k++) {
    int begin = count * k / threads, end = count * (k + 1) / threads;
    parts[k] = (part_t){stored, sizes, y, x, flip, rgb, mean, out, begin, end, raw, 0};
    pthread_create(&running[k], NULL, work, &parts[k]);
  }
  for (int k = 0; k < threads; k++) {
    pthread_join(running[k], NULL);
    failed += parts[k].failed;
  }
  return failed;
}

/* Which codec this was compiled against. */
const char *codec_name(void) { return "libjpeg-turbo " TEXT(LIBJPEG_TURBO_VERSION); }
