"""From a recipe to a plan, a run and a report, on disk and in memory."""
