"""Is this picture a photograph, or was it generated? A course project one can trust.

One look at the folder: its files are the stages of the pipeline and what notebooks call most;
its folders hold what those are made of:

- ``reading/``: images from files, archives and services to arrays
- ``auditing/``: checks of data, models and reported numbers
- ``nets/``: bodies, parts and training of networks
- ``metrics/``: intervals, thresholds, calibration, comparisons
- ``plotting/``: tables and images to figures
- ``making/``: the project's own generators, and fakes
- ``pages/``: what is published, and the web page
- ``machine/``: devices and memory; ``running/``: notebooks headless, processes, machines, costs
- ``commands/``: the command line, a module a group

A module's name stands once, so this table leaves folders out. Lowest layer first; a module
imports only from layers below it, or from further left in its own row (held by
``tests/test_layers.py``):

=====  ==================================================================================
layer  modules
=====  ==================================================================================
0      ``config`` (profiles, paths) · ``schema`` (labels, columns, checks) · ``findings``
1      ``recompression`` (JPEG as a layer) · ``optimizers`` (Muon for kernels) ·
       ``devices`` (memory, precision) · ``provenance`` · ``locks`` (of folders) ·
       ``runs`` (run folders) · ``remote`` (files in an object store) ·
       ``syncing`` (copies of them) · ``parallel`` (many processes, many machines) ·
       ``accelerators`` (several devices, batches that fit) · ``doctor`` ·
       ``features`` (image statistics, spectra) · ``outside`` ·
       ``perturb`` (JPEG, blur, noise: uint8 → uint8) · ``style`` · ``diagrams`` ·
       ``plots`` (tables → axes) · ``robustness_plots`` ·
       ``comparison_plots`` · ``generalisation_plots`` · ``galleries`` (images → figures) ·
       ``explain_plots`` · ``intervals`` · ``maps`` (of evidence, compared) ·
       ``threshold`` · ``evaluate`` (predictions → metrics) · ``calibration`` ·
       ``selective`` · ``operating`` (points) · ``comparing`` · ``evaluation_plots`` ·
       ``claims`` (what reported numbers imply) · ``checks_plots`` ·
       ``looks`` (at the test split) · ``exercises`` (graded, by Otter-Grader)
2      ``images`` (decoding) · ``named_files`` · ``crops`` · ``datasets`` (by name) ·
       ``shards`` (decode once) · ``manifest`` ·
       ``fetching`` (from Kaggle) · ``archives`` · ``importing`` · ``clean`` · ``split`` ·
       ``traces`` (of storing) · ``duplicates`` · ``probes`` (of short cuts) · ``resampling`` ·
       ``data_checks`` · ``audit`` · ``audit_page`` · ``audit_plots`` · ``faults`` (planted in data)
3      ``feeding`` · ``pipeline`` (manifest → tensors) ·
       ``augmentation`` · ``networks`` (bodies of recipes) · ``backbones`` (trained elsewhere) ·
       ``models`` (recipes) · ``baselines``
4      ``detector`` (verdicts without TensorFlow) · ``predict`` · ``gradients`` · ``attacks`` ·
       ``epochs`` (of a training) · ``train`` · ``chief`` (of a search) · ``worker`` · ``tune``
5      ``checks`` (of reports) · ``model_checks`` · ``planted`` (mistakes) ·
       ``model_card`` · ``export`` (a detector) · ``transfer`` · ``experiments`` ·
       ``robustness`` · ``explain`` (maps) · ``generator_parts`` · ``generators`` (redraw
       photographs) · ``inventing`` (generators from noise) · ``makers`` (of fakes) ·
       ``fakes`` (a data set of them) · ``generalisation`` (to unseen generators)
6      ``recipes`` (beside the reports) · ``report`` (tables of a run) · ``run_page`` ·
       ``publishing`` (into ``results/``) · ``readme`` (its tables) · ``evaluation_page`` ·
       ``drawings`` (one function a figure) · ``evidence_drawings`` · ``figures`` ·
       ``slides`` · ``network_costs`` · ``costs`` (measured here) · ``work`` ·
       ``plans`` (what a notebook does) · ``estimate`` (time, disk, memory) ·
       ``notebook_files`` · ``colab`` (copies of them) · ``signals`` ·
       ``failures`` (of notebooks, told) · ``batch`` (papermill) ·
       ``uploads`` (judging bytes) · ``app_parts`` (what the page draws)
7      ``serve`` (the page's server) · ``cli_data`` · ``cli_run`` · ``cli_train`` ·
       ``cli_generators`` · ``cli_evidence`` · ``cli_detector`` · ``cli_publish`` · ``cli`` ·
       ``app`` (the page) and the notebooks
=====  ==================================================================================

Three things carry everything: the *manifest* (one row an image), a *Keras model* that takes
raw pixels, and the *predictions table* (one row an image × model × condition).
"""

__version__ = "0.1.0"
