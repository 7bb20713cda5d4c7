// See team.h.
#include "team.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <memory>
#include <new>
#include <thread>
#include <vector>

namespace {

// About 100 us: longer than the longest stretch of a decode step that one thread computes alone. Beyond it a thread
// sleeps, as a step that is not told to be over may have failed.
constexpr int kSpins = 4000;
// Some 100 us after a step, longer than the way to the next stage: a core that does nothing sleeps, and takes some 40 us
// to wake for the threads that carry the rows on. Whoever else has work gets the core at once. Over three nodes on two
// cores: 198 and 228 us from compute to compute, against 248 and 273 us without.
constexpr int kYields = 300;

inline void pause() { __builtin_ia32_pause(); }

class Team {
 public:
  explicit Team(int threads) {
    for (int i = 1; i < threads; ++i) others_.emplace_back([this] { serve(); });
  }

  ~Team() {
    stop_.store(true);
    wake();
    for (auto& other : others_) other.join();
  }

  int threads() const { return static_cast<int>(others_.size()) + 1; }

  void run(int64_t chunks, void (*body)(void*, int64_t), void* context) {
    body_ = body;
    context_ = context;
    chunks_ = chunks;
    next_.store(0, std::memory_order_relaxed);
    state_.store((++job_ << kJobShift) | kOpen);  // publishes the fields above
    if (sleeping_.load() > 0) wake();
    take();
    // Who comes late finds the job closed and never looks at it.
    state_.fetch_and(~kOpen);
    for (int spins = 0; (state_.load(std::memory_order_acquire) & kActive) != 0; ++spins)
      if (spins < kSpins)
        pause();
      else
        std::this_thread::yield();  // the other one's core may be taken
  }

  void rest() { resting_.store(true, std::memory_order_relaxed); }

  void rouse() {
    resting_.store(false, std::memory_order_relaxed);
    if (sleeping_.load() > 0) wake();
  }

 private:
  // state_: number of the job, whether it may be joined, how many of the others are in it.
  static constexpr uint64_t kActive = 0xffff, kOpen = 1 << 16;
  static constexpr int kJobShift = 17;

  void take() {
    for (int64_t chunk; (chunk = next_.fetch_add(1, std::memory_order_relaxed)) < chunks_;) body_(context_, chunk);
  }

  void serve() {
    pthread_setname_np(pthread_self(), "compute-team");
    uint64_t done = 0;
    while (true) {
      uint64_t state = await(done);
      if (stop_.load(std::memory_order_relaxed)) return;
      done = state >> kJobShift;
      while ((state & kOpen) != 0 && state >> kJobShift == done)
        if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) {
          take();
          state_.fetch_sub(1, std::memory_order_release);
          break;
        }
    }
  }

  // Waits for a job that is not `done`.
  uint64_t await(uint64_t done) {
    int spins = 0, yields = 0;
    while (true) {
      const uint32_t ring = rings_.load();
      uint64_t state = state_.load(std::memory_order_acquire);
      if (state >> kJobShift != done || stop_.load(std::memory_order_relaxed)) return state;
      if (resting_.load(std::memory_order_relaxed)) {
        if (yields++ < kYields) {
          std::this_thread::yield();
          continue;
        }
      } else if (spins < kSpins) {
        ++spins;
        pause();
        continue;
      }
      // Counted first and looked at once more: either the owner sees a sleeper, or we see its job.
      sleeping_.fetch_add(1);
      state = state_.load();
      if (state >> kJobShift == done && !stop_.load()) futex(FUTEX_WAIT, ring);
      sleeping_.fetch_sub(1);
      spins = 0;
    }
  }

  void wake() {
    rings_.fetch_add(1);
    futex(FUTEX_WAKE, INT_MAX);
  }

  void futex(int operation, uint32_t value) {
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&rings_), operation | FUTEX_PRIVATE_FLAG, value, nullptr, nullptr, 0);
  }

  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint32_t> rings_{0};
  std::atomic<int> sleeping_{0};
  std::atomic<bool> resting_{false}, stop_{false};
  void (*body_)(void*, int64_t) = nullptr;
  void* context_ = nullptr;
  int64_t chunks_ = 0;
  uint64_t job_ = 0;
  std::vector<std::thread> others_;
};

thread_local std::unique_ptr<Team> team;

}  // namespace

void team_run(int64_t chunks, void (*body)(void*, int64_t), void* context) {
  if (team && chunks > 1) return team->run(chunks, body, context);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk);
}

int team_threads() { return team ? team->threads() : 1; }

extern "C" {

// Gives the calling thread a team of so many threads, itself among them; 0 if they can't be had.
int ll_team(int threads) {
  if (team_threads() == threads) return 1;
  try {
    team.reset();
    if (threads > 1) team = std::make_unique<Team>(threads);
    return 1;
  } catch (...) {
    return 0;
  }
}

// Between steps: the others sleep instead of spinning.
void ll_team_rest() {
  if (team) team->rest();
}

// A step is near: the others wake and spin.
void ll_team_rouse() {
  if (team) team->rouse();
}

}  // extern "C"
