// The compute threads of a stage: one team per thread that owns a stage.
//
// Written because OpenMP's team does two things badly when several stages share a machine. It splits loops evenly, so
// a thread that the network's threads interrupt holds up the rest; here chunks are handed out one by one. And its
// threads spin after the last loop of a step, on a core that the next stage needs; here the owner says when a step
// is over (ll_team_rest) and when the next one is near (ll_team_rouse).
#pragma once
#include <cstdint>

// Calls body(context, chunk) for every chunk in 0..chunks on the calling thread's team, each once; returns when all
// are done. A thread without a team does them all itself. `body` must not call team_run.
void team_run(int64_t chunks, void (*body)(void* context, int64_t chunk), void* context);

// Threads of the calling thread's team, itself among them.
int team_threads();

template <class F>
inline void in_team(int64_t chunks, F f) {
  team_run(
      chunks, [](void* context, int64_t chunk) { (*static_cast<F*>(context))(chunk); }, &f);
}
