// A small thread pool: the caller works too, helpers take tasks from one counter, and only outputs are ever split.
//
// Helpers spin for some microseconds after a job, since a decode step is a train of short ones, then sleep. A helper that
// comes late finds the job closed and goes back, so the caller never waits for a thread that took no task. Who runs a task
// cannot matter to its result, therefore a second caller that finds the pool busy simply works alone.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>

#include <pthread.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Subnormals count: a caller may have asked its own thread to flush them, which would make its tasks differ from ours.
class DefaultFloatMode {
#if defined(__x86_64__)
    unsigned saved_ = _mm_getcsr();
  public:
    DefaultFloatMode() { if (saved_ & 0xE040) _mm_setcsr(saved_ & ~0xE040u); }
    ~DefaultFloatMode() { if (saved_ & 0xE040) _mm_setcsr(saved_); }
#elif defined(__aarch64__)
    uint64_t saved_;
  public:
    DefaultFloatMode() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" ::"r"((uint64_t)0));
    }
    ~DefaultFloatMode() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }
#endif
};

// Memory of one thread for one `Purpose`, kept between calls; freed with the thread.
template <class Purpose>
void* thread_scratch(size_t bytes) {
    struct Buffer {
        void* data = nullptr;
        size_t size = 0;
        ~Buffer() { free(data); }
    };
    static thread_local Buffer buffer;
    if (buffer.size < bytes) {
        free(buffer.data);
        buffer.size = 0;
        buffer.data = aligned_alloc(64, (bytes + 63) / 64 * 64);
        if (!buffer.data) return nullptr;
        buffer.size = bytes;
    }
    return buffer.data;
}

class Pool {
  public:
    typedef void (*Task)(void* context, int64_t index);

    static Pool& get() {
        static std::once_flag once;
        std::call_once(once, [] {
            current() = new Pool();
            // Threads do not survive a fork: the child leaves the old pool alone and starts its own when it needs one.
            pthread_atfork(nullptr, nullptr, [] {
                int threads = current()->threads_.load();
                current() = new Pool();
                current()->threads_ = threads;
            });
        });
        return *current();
    }

    void set_threads(int n) { threads_ = n < 1 ? 1 : n > 256 ? 256 : n; }
    int threads() const { return threads_; }
    bool asleep() const { return started_.load(std::memory_order_relaxed) == 0 || sleeping_.load(std::memory_order_relaxed) > 0; }

    void run(Task task, void* context, int64_t count, int64_t cost) {
        const int helpers = threads_ - 1;
        std::unique_lock<std::mutex> lock(run_mutex_, std::defer_lock);
        if (helpers < 1 || count < 2 || !lock.try_lock() || (alone_ > 0 && cost < LONG_JOB && alone_--)) {
            DefaultFloatMode mode;
            for (int64_t i = 0; i < count; i++) task(context, i);
            return;
        }
        const auto began = Clock::now();
        start(helpers);
        task_ = task;
        context_ = context;
        count_ = count;
        allowed_ = helpers;
        next_.store(0);
        open_.store(true);
        generation_.fetch_add(1);
        if (sleeping_.load() > 0) {
            std::lock_guard<std::mutex> guard(sleep_mutex_);
            wake_.notify_all();
        }
        work();
        open_.store(false);
        if (active_.load() == 0) return;
        const auto done = Clock::now();
        for (int spins = 0; active_.load() > 0; spins++) {
            if (spins < 4096) relax();
            else std::this_thread::yield();
        }
        // A helper that the system put to sleep with a task in its hands costs more than it brings: on a machine that
        // is busy with something else, short jobs do without helpers for a while, longer each time.
        const auto waited = Clock::now() - done;
        if (waited > std::chrono::microseconds(200) && waited > done - began) {
            alone_ = patience_;
            patience_ = patience_ < 2048 ? patience_ * 2 : patience_;
        } else if (patience_ > 32) {
            patience_--;
        }
    }

  private:
    typedef std::chrono::steady_clock Clock;
    static constexpr int64_t LONG_JOB = 30000000;  // about a millisecond of multiply-adds

    static Pool*& current() {
        static Pool* pool = nullptr;  // never freed: helpers may outlive static destruction
        return pool;
    }

    void work() {
        DefaultFloatMode mode;
        for (int64_t i; (i = next_.fetch_add(1)) < count_;) task_(context_, i);
    }

    void start(int helpers) {
        for (int i = started_; i < helpers; i++) {
            try {
                std::thread([this, i] { helper(i); }).detach();
            } catch (...) {  // no more threads to be had: fewer helpers do the same work
                return;
            }
            started_++;
        }
    }

    void helper(int index) {
        uint64_t seen = 0;
        for (;;) {
            seen = await(seen);
            active_.fetch_add(1);
            if (open_.load() && index < allowed_.load()) work();
            active_.fetch_sub(1);
        }
    }

    uint64_t await(uint64_t seen) {
        const auto start = Clock::now();
        for (int i = 1;; i++) {
            const uint64_t now = generation_.load();
            if (now != seen) return now;
            relax();
            if (i % 64 == 0 && Clock::now() - start > std::chrono::microseconds(50)) break;
        }
        std::unique_lock<std::mutex> lock(sleep_mutex_);
        sleeping_.fetch_add(1);
        wake_.wait(lock, [&] { return generation_.load() != seen; });
        sleeping_.fetch_sub(1);
        return generation_.load();
    }

    std::mutex run_mutex_, sleep_mutex_;
    std::condition_variable wake_;
    std::atomic<int> threads_{1}, started_{0}, sleeping_{0}, active_{0}, allowed_{0};
    std::atomic<uint64_t> generation_{0};
    std::atomic<bool> open_{false};
    alignas(64) std::atomic<int64_t> next_{0};
    int64_t alone_ = 0, patience_ = 32;  // guarded by run_mutex_
    Task task_ = nullptr;
    void* context_ = nullptr;
    int64_t count_ = 0;
};

// Runs f(i) for i < count; on the caller alone when `cost` (multiply-adds, roughly) is too small to share.
template <class F>
void parallel(int64_t count, int64_t cost, F&& f) {
    Pool& pool = Pool::get();
    const int64_t worthwhile = pool.asleep() ? 300000 : 40000;
    auto call = [](void* context, int64_t i) { (*(std::remove_reference_t<F>*)context)(i); };
    if (cost < worthwhile || count < 2) {
        DefaultFloatMode mode;
        for (int64_t i = 0; i < count; i++) f(i);
    } else {
        pool.run(call, (void*)&f, count, cost);
    }
}
