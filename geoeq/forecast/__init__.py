"""The main job: train, compare and report forecasts of motion."""
