// All passes.
#pragma once

#include "engine/combine.h"
#include "engine/gram.h"
#include "engine/nonfinite.h"
#include "engine/overlap.h"
#include "engine/pack.h"
#include "engine/select.h"
#include "engine/stage_sums.h"
