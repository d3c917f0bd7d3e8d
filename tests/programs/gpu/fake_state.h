/* What the fake driver's two halves share: the table of all that it has handed out, and the lock over it. */
#ifndef FAKE_STATE_H
#define FAKE_STATE_H

#include "driver.h"
#include <pthread.h>
#include <stdbool.h>

#pragma GCC visibility push(hidden)

enum { DEVICES = 8, CONTEXTS = 64, DEPTH = 16 };

/* What a number that the driver has handed out is one of. */
enum kind { UNUSED, MEMORY, HOST, REGISTERED, ARRAY, MIPMAP, IPC, POOL, EXTERNAL, HANDLE, MAPPING, RESERVED };

struct CUctx_st {
    int device;
    uint32_t references; /* of a primary one */
    bool alive, primary;
};

struct record {
    enum kind kind;
    enum fake_gpu_space space;
    uint64_t id;
    size_t size;
    int device;      /* whose memory it takes; -1: none's */
    CUcontext context; /* it goes with this one; NULL: with none */
    uint32_t references, mappings;
    uint64_t of;     /* of a mapping: the handle; of an opening: the key of what is opened */
};

/* Numbers to hand out: those given back come back first, so that a tracer that misses a free sees one twice. */
struct numbers {
    uint64_t next;
    size_t count;
    struct { uint64_t number; size_t size; } back[8192];
};

extern pthread_mutex_t fake_lock;

/* All of these with the lock held. */
uint64_t fake_take_number(struct numbers *numbers, size_t size);
void fake_give_number(struct numbers *numbers, uint64_t number, size_t size);
struct record *fake_add(enum kind kind, enum fake_gpu_space space, uint64_t id, size_t size);
struct record *fake_find(enum kind kind, uint64_t id);
struct record *fake_each(struct record *after, enum kind kind);
void fake_drop(struct record *record);
CUresult fake_charge(int device, size_t size);
void fake_uncharge(int device, size_t size);
/* Why nothing can be done now, and the calling thread's context. */
CUresult fake_ready(void);
CUresult fake_context(CUcontext *context);
bool fake_is_device(int device);
/* What the next call that takes something back is to return. */
CUresult fake_refusal(void);

#define LOCKED(expression)                                                                         \
    do {                                                                                           \
        pthread_mutex_lock(&fake_lock);                                                            \
        CUresult locked_result = (expression);                                                     \
        pthread_mutex_unlock(&fake_lock);                                                          \
        return locked_result;                                                                      \
    } while (0)

#pragma GCC visibility pop
#endif
