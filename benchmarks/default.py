"""Which method should be the default? Quality against cost, for every method of the catalogue.

    python benchmarks/default.py [--images 500] [--workers 2]     into results/default.json

The rule below was committed before any number of this study was looked at. Known by then was the
older table of all methods (docs/benchmark_scenes.md), which was measured on other weights of
`scenes` and on other scenes.

**Measured.** Every method with its own default options, on `scenes` and its two other seeds, on
scenes that no other table uses. Columns of the image side, over the images where the model is
right: SRG and MIF under mean, blur and token removal; pointing, multi-object pointing, average
precision. Columns of the text side, on prompts "a X and a Y" of which one shape is in the image and
the other is not, in drawn order: how often the present shape's word is the higher one (pairs), and
the mean score while words are deleted, highest first (word deletion). Cost: the time of `explain`
without a certificate over that of a bare forward pass of the same inputs, for 1, 10, 100 and 1,000
prompts, on a ViT-B/32 of true size with random weights.

**Gates**, for both names below:

1. certificate: it holds on `scenes`, and on every family of specimens where the method runs;
2. blind: on a model whose readout sees no patch, the map is constant;
3. shortcuts: the AUC of `benchmarks/shortcuts.py`, the lower end of its interval, is at least .95
   for every cue that was measured;
4. controls: on `scenes`, every column is better than the best control (the benchmark's rule of
   claims). On the text side: pairs, lower end above the best control's upper end; the controls are
   a random map, and maps that prefer the first word or the last one;
5. level: SRG (mean) on `scenes` is at least .47 (image side).

**default** of a side: also runs on every family of the side; costs at most 100 bare passes for 1
prompt and at most 1,000 for 100 prompts. Of those that pass, the best mean rank over the columns
and the three models. A cheaper one (for 1 prompt) is taken instead where its mean rank is worse by
less than half a rank.

**fast** of a side: costs at most 2 bare passes for 1 prompt, and at most 3 for 100 prompts; the
best mean rank, as above. It may refuse families. For a model that refuses it, the best one that
passes the same gates and refuses none comes next.

**If none passes**, gates are dropped one at a time, from the last to the second, until one does;
the page names the gates that the chosen method does not pass. The certificate is never dropped. A
gate that was not measured is passed, and the page says "not measured".

Ranks are among the methods that are left for the name in question; equal values share a rank.
"""
