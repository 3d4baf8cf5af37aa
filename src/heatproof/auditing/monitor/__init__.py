"""Tell whether a model's own forward pass stays what it is while somebody's code runs.

The flow, for one image and one prompt:

1. `replay.untouched_pass` records one pass with nobody's code around: the reference, and the
   modules that the model's encoders call at the top (the entries).
2. `module_recorder.ModuleRecorder` records what runs while the method runs.
3. `replay.changed_passes` runs the calls of entries once more, on the same inputs, with nobody's
   code around: what differs was changed from outside.
4. `replay.own_pass` compares layers that the code called by itself with the untouched pass over
   the pixels (or token ids) that the code fed last.
5. `checks/forward_monitor.py` turns the record into a verdict.

A module's output is only ever compared with what the untouched model computes from the same input:
other inputs than the image (interpolations, masks) are nobody's fault.
"""
