"""Deliberate faults: each is put into a copy of the package, and the tests named with it must fail.

    python tests/mutants.py [NAME ...]

Without names all faults are tried, which takes some minutes. The exit code is the number of faults that no test notices.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        name: what is wrong.
        file: the file below `blurcli/`.
        old: the right code, which must be there exactly once.
        new: the wrong code.
        tests: arguments of pytest; the tests that must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


INVARIANTS = "tests/test_invariants.py"
OPTIONS = "tests/test_options.py::test_options_of_models"
STEP = "tests/test_distillation_step.py::test_a_step"
MUTANTS = (
    Mutant(
        "EMA warm-up removed",
        "training/trainer.py",
        "decay = min(self.config.optim.ema_decay, (1 + self.step) / (10 + self.step))",
        "decay = self.config.optim.ema_decay",
        f"{INVARIANTS}::test_ema_starts_with_a_short_average",
    ),
    Mutant(
        "augmentation labels not given to the network",
        "training/trainer.py",
        'conditions["augment_labels"] = augment_labels',
        "pass",
        f"{INVARIANTS}::test_augmentation_labels_reach_the_network",
    ),
    Mutant(
        "augmentation labels ignored by the network",
        "core/unet.py",
        "time = time + self.changes(augment_labels).to(x.dtype)",
        "pass",
        "tests/test_augment.py::test_labels_reach_the_network_and_are_optional",
    ),
    Mutant(
        "class dropout inverted",
        "training/trainer.py",
        "dropped = torch.rand(count, device=x.device) < self.config.optim.class_dropout",
        "dropped = torch.rand(count, device=x.device) >= self.config.optim.class_dropout",
        f"{INVARIANTS} -k class_dropout",
    ),
    Mutant(
        "the same flips every step",
        "data/batches.py",
        "np.random.default_rng([self._seed, 1, step])",
        "np.random.default_rng([self._seed, 1])",
        f"{INVARIANTS}::test_every_step_draws_its_own_flips",
    ),
    Mutant(
        "the same noise every step",
        "core/rng.py",
        "words = [seed, step, attempt] if attempt else [seed, step]",
        "words = [seed, attempt]",
        f"{INVARIANTS}::test_every_step_draws_its_own_noise_times_and_dropout",
    ),
    Mutant(
        "scores of other numbers of images ranked together",
        "evaluate/metrics.py",
        '"size", "n")',
        '"size")',
        f"{INVARIANTS}::test_scores_of_other_numbers_of_images_are_not_ranked_together",
    ),
    Mutant(
        "- log N missing in the heat prior",
        "core/heat_likelihood.py",
        " - math.log(len(blurred_bank))",
        "",
        f"{INVARIANTS}::test_the_heat_prior_is_a_mean_over_its_components",
    ),
    Mutant(
        "Fourier scale changed",
        "core/unet.py",
        "frequencies = scale *",
        "frequencies = scale / 2 *",
        f"{INVARIANTS}::test_fourier_features tests/test_golden.py",
    ),
    Mutant(
        "groups of normalization changed",
        "core/unet.py",
        "min(32, channels // 4)",
        "min(32, channels // 8)",
        f"{INVARIANTS}::test_groups_of_normalization tests/test_golden.py",
    ),
    Mutant(
        "zero initialization removed",
        "core/unet.py",
        "        nn.init.zeros_(parameter)",
        "        pass",
        f"{INVARIANTS}::test_what_starts_at_zero",
    ),
    Mutant(
        "order of the Philox key changed",
        "core/rng.py",
        "np.array([seed, index], np.uint64)",
        "np.array([index, seed], np.uint64)",
        f"{INVARIANTS}::test_the_key_of_a_stream_is_seed_then_index",
    ),
    Mutant(
        "ab2 without its limit",
        "core/samplers/ab2.py",
        ".clamp(max=_MAX_RATIO)",
        "",
        f"{INVARIANTS}::test_ab2_limits_its_ratio",
    ),
    Mutant(
        "abm extrapolates in its last step",
        "core/samplers/abm.py",
        "if change is not None and not step.is_last:",
        "if change is not None:",
        f"{INVARIANTS}::test_abm_predicts_corrects_and_ends_without_extrapolation tests/test_golden.py",
    ),
    Mutant(
        "network left in evaluation mode",
        "model/inference.py",
        "            network.train(training)",
        "            pass",
        f"{INVARIANTS}::test_looks_leave_the_networks_in_their_modes",
    ),
    Mutant(
        "health measured in training mode",
        "training/monitoring.py",
        "with evaluation_mode(trainer.network):",
        "if True:",
        f"{INVARIANTS}::test_health_is_measured_without_dropout",
    ),
    Mutant(
        "EMA in training mode",
        "training/trainer.py",
        "copy.deepcopy(self.network).eval()",
        "copy.deepcopy(self.network)",
        f"{INVARIANTS}::test_looks_leave_the_networks_in_their_modes",
    ),
    Mutant(
        "sampling in training mode",
        "model/inference.py",
        "requires_grad_(False).eval()",
        "requires_grad_(False).train()",
        f"{INVARIANTS}::test_sampling_is_without_dropout",
    ),
    Mutant(
        "loss weight ignored",
        "training/trainer.py",
        "return None if weight is None else",
        "return None if True else",
        f"{INVARIANTS}::test_the_loss_weight_counts",
    ),
    *(
        Mutant(f"Muon: {name}", "training/muon.py", before, after, f"tests/test_optimizers.py::{test}")
        for name, before, after, test in (
            ("no look-ahead", "gradient.lerp_(momentum, _MOMENTUM)", "momentum.clone()", "test_muon_is_that_of_pytorch"),
            (
                "a step of the iteration less",
                "_ITERATIONS - 1",
                "_ITERATIONS - 2",
                "test_orthogonalized_is_the_iteration_of_the_paper",
            ),
            ("another scale", "math.sqrt(momentum.shape[-1])", "math.sqrt(momentum.shape[-2])", "test_muon_is_that_of_pytorch"),
            (
                "skipped steps count",
                "torch.where(skip, momentum, ",
                "torch.where(~skip, momentum, ",
                "test_a_skipped_step_changes_nothing",
            ),
            (
                "weights in channels-last order stay",
                "torch._foreach_add_(list(group.values()), changes)",
                "torch._foreach_add_([_matrix(parameter) for parameter in group.values()], list(updates))",
                "test_weights_in_channels_last_order_are_updated_likewise",
            ),
        )
    ),
    Mutant(
        "Adam's beta1 changed",
        "training/optimizers.py",
        "_BETA1 = 0.9",
        "_BETA1 = 0.5",
        f"{INVARIANTS}::test_adam_has_the_betas_of_the_preset",
    ),
    Mutant(
        "padding of fixed batches removed",
        "core/execution.py",
        "tensor[:1].expand(size - given, *tensor.shape[1:])",
        "tensor[:0]",
        f"{INVARIANTS}::test_calls_of_a_fixed_size_are_padded",
    ),
    Mutant(
        "names in a report not escaped",
        "visualize/markup.py",
        "return escape(_REORDERING",
        "return Markup(_REORDERING",
        "tests/test_report.py::test_hostile_names_and_a_secret_folder",
    ),
    Mutant(
        "location of the training images in a report",
        "config/repeat.py",
        r"""return re.split(r"[\\/]", path.rstrip("\\/"))[-1]""",
        "return path",
        "tests/test_report.py::test_hostile_names_and_a_secret_folder",
    ),
    Mutant(
        "all previews in a report",
        "visualize/report_pictures.py",
        "evenly_chosen(len(found), _MOST_PREVIEWS)",
        "range(len(found))",
        "tests/test_report.py::test_many_large_previews_are_thinned",
    ),
    Mutant(
        "a pipeline of diffusers changes the classes of those before",
        "portable/bundle.py",
        '__name__ = f"{{__name__}}_{{id(_module):x}}"',
        "",
        "tests/test_export.py -k images_are_those",
    ),
    Mutant(
        "exported without calibration",
        "portable/folder.py",
        '"process": weights.data.tensors()}',
        '"process": {k: v for k, v in weights.data.tensors().items() if k != "gain"}}',
        "tests/test_export.py -k images_are_those",
    ),
    Mutant(
        "factor on the times ignored",
        "core/unet.py",
        "_fourier(t, self.base_channels, self.time_scale)",
        "_fourier(t, self.base_channels, 1000.0)",
        "tests/test_import.py::test_the_network_is_the_same_function",
    ),
    Mutant(
        "number of groups ignored",
        "core/unet.py",
        "groups or math.gcd",
        "math.gcd",
        "tests/test_import.py::test_the_network_is_the_same_function",
    ),
    Mutant(
        "an imported model takes images in [-1, 1]",
        "importing/__init__.py",
        '"data.centered": False,',
        '"data.centered": True,',
        "tests/test_import.py::test_a_blurring_model_makes_the_same_images tests/test_import.py::test_a_heat_model_makes_the_same_images",
    ),
    Mutant(
        "imported weights of the last step",
        "importing/pth.py",
        "    if averaged:\n",
        "    if False:\n",
        "tests/test_import.py::test_the_ema_is_imported_unless_the_last_step_is_asked_for",
    ),
    Mutant(
        "objects in a checkpoint are built",
        "importing/pth.py",
        "weights_only=True",
        "weights_only=False",
        "tests/test_import.py::test_code_in_a_checkpoint_is_never_run",
    ),
    Mutant(
        "checksums of a checkpoint ignored",
        "importing/pth.py",
        "damaged = archive.testzip()",
        "damaged = None",
        "tests/test_import.py::test_a_damaged_file",
    ),
    Mutant(
        "an existing weights file counts as the same",
        "importing/__init__.py",
        "return (one.config, one.step) ==",
        "return True or (one.config, one.step) ==",
        "tests/test_import.py::test_a_file_that_is_there_is_kept",
    ),
    Mutant(
        "contradictions of a preset ignored",
        "importing/__init__.py",
        "    if different:\n",
        "    if False:\n",
        "tests/test_import.py::test_contradictions_name_both_sides",
    ),
    Mutant(
        "images in [0, 1]: mean not moved",
        "core/colors.py",
        "u[..., 0, 0] +=",
        "u[..., 0, 0] += 0 *",
        "tests/test_colors.py::test_moments_of_images_in_0_1",
    ),
    Mutant(
        "images in [0, 1]: levels as far apart as in [-1, 1]",
        "core/likelihood.py",
        "process.sigma(zero).item() / model_space.scale",
        "process.sigma(zero).item()",
        "tests/test_likelihood.py::test_bound_of_images_in_0_1",
    ),
    Mutant(
        "images in [0, 1]: noise of heat dissipation doubled",
        "families/base.py",
        "return noise * 2 * ModelSpace(centered=self.config.data.centered).scale",
        "return noise * 2",
        "tests/test_import.py::test_a_heat_model_makes_the_same_images",
    ),
    Mutant(
        "images in [0, 1]: forgotten when a run continues",
        "training/trainer.py",
        "opponent, config.data.centered)",
        "opponent)",
        "tests/test_import.py::test_a_training_on_images_in_0_1_goes_on_as_it_began",
    ),
    Mutant(
        "moments that nobody measured are used",
        "families/base.py",
        "if not self.data.moments.measured:",
        "if False:",
        "tests/test_import.py::test_without_training_images_only_what_needs_them_is_refused",
    ),
    Mutant(
        "distillation: the target has a gradient",
        "core/consistency.py",
        "with torch.no_grad():",
        "with torch.enable_grad():",
        "tests/test_consistency.py::test_the_target_has_no_gradient",
    ),
    Mutant(
        "distillation: Euler's step instead of Heun's, twice as long",
        "core/consistency.py",
        "later = w + turned / 2 * (slope + predicted)",
        "later = w + turned * (slope + predicted)",
        "tests/test_consistency.py::test_the_teacher_leads_along_its_own_path",
    ),
    Mutant(
        "distillation: without an end that is known",
        "core/consistency.py",
        "torch.where((s > 0)",
        "torch.where((s >= 0)",
        "tests/test_consistency.py::test_at_the_end_the_teacher_decides",
    ),
    Mutant(
        "distillation: the teacher does not know the classes",
        "core/consistency.py",
        "slope = teacher._correction(w, t, conditions)",
        "slope = teacher._correction(w, t, {})",
        "tests/test_consistency.py::test_conditions_reach_both_networks",
    ),
    Mutant(
        "distillation: another model replaces the teacher",
        "workflows/distillation.py",
        "if teacher_digest(run) != teacher.digest:",
        "if False:",
        "tests/test_distill.py::test_another_teacher_is_refused",
    ),
    Mutant(
        "distillation: classes of other images pass",
        "training/loop.py",
        "teacher.classes.names != tuple(dataset.classes)",
        "len(teacher.classes.names) != len(dataset.classes)",
        "tests/test_distill.py::test_images_must_be_named_and_of_the_same_classes",
    ),
    Mutant(
        "distillation: health is the error of denoising",
        "training/monitoring.py",
        "trainer.loss.by_band(",
        "__import__('blurcli.evaluate.denoising').evaluate.denoising.losses(",
        "tests/test_distill.py::test_health_is_the_loss_of_the_distillation",
    ),
    Mutant(
        "distillation: the path is never divided further",
        "training/losses.py",
        "min(2 << doublings, distill.intervals)",
        "2",
        "tests/test_distill.py::test_parts_of_the_path_double",
    ),
    Mutant(
        "distillation: continued from the network of the beginning",
        "training/loop.py",
        "Trainer.resume(state, config, path, device, distributed, notify, teacher)",
        "Trainer(config, teacher.data.moments, device, distributed, notify, teacher) if teacher else "
        "Trainer.resume(state, config, path, device, distributed, notify, teacher)",
        "tests/test_distill.py::test_it_resumes_exactly",
    ),
    Mutant(
        "consistency sampler: no new noise",
        "core/samplers/consistency.py",
        "return State(u if step.ends_clean else u + process.sigma(step.at_s) * noise())",
        "return State(u)",
        "tests/test_consistency.py -k distribution",
    ),
    Mutant(
        "calibration and health without the classes",
        "training/monitoring.py",
        "min(most, len(images)), trainer.config.seed, labels)",
        "min(most, len(images)), trainer.config.seed)",
        "tests/test_conditions.py::test_training_measures_with_classes",
    ),
    Mutant(
        "distillation: health without the classes",
        "training/losses.py",
        "(t, s), noise(x), **conditions)",
        "(t, s), noise(x))",
        "tests/test_conditions.py::test_training_measures_with_classes",
    ),
    Mutant(
        "likelihood without the classes",
        "evaluate/likelihood.py",
        ", **measured.conditions(pipeline, indices)))",
        "))",
        "tests/test_conditions.py -k likelihood",
    ),
    Mutant(
        "heat dissipation: the last step of the bound without the classes",
        "core/heat_likelihood.py",
        "torch.zeros_like(first), **conditions)",
        "torch.zeros_like(first))",
        "tests/test_conditions.py -k likelihood",
    ),
    Mutant(
        "errors of the denoiser without the classes",
        "evaluate/denoising.py",
        "own = partial(denoiser, **measured.conditions(pipeline, indices))",
        "own = denoiser",
        "tests/test_conditions.py -k diagnose",
    ),
    Mutant(
        "estimates of an animation without the classes",
        "visualize/trajectories.py",
        "t, **self._conditions)",
        "t)",
        "tests/test_conditions.py -k animate",
    ),
    Mutant(
        "labels by the numbers of the images' own classes",
        "data/dataset.py",
        "np.array([wanted.index(name) for name in names])[labels]",
        "labels",
        "tests/test_conditions.py::test_measured_images_have_their_own_classes",
    ),
    Mutant(
        "images of unknown classes through an embedding that was never trained",
        "model/conditioning.py",
        "if config is not None and not config.optim.class_dropout:",
        "if False:",
        "tests/test_conditions.py::test_images_of_unknown_classes_are_refused_or_measured_without",
    ),
    Mutant(
        "draws of a photo change their class with their number at a time",
        "model/restorer.py",
        "[index for index in indices for _ in range(images)]",
        "[index for index in range(count) for _ in range(images)]",
        "tests/test_conditions.py::test_every_draw_of_a_photo_has_its_class",
    ),
    Mutant(
        "import: attention heads in the other order",
        "importing/adm.py",
        "if legacy_attention and head_channels is not None",
        "if not legacy_attention and head_channels is not None",
        "tests/test_import.py::test_several_attention_heads_in_both_orders",
    ),
    Mutant(
        "distillation: the student teaches itself",
        "training/losses.py",
        "distillation_loss(self._teacher, x",
        "distillation_loss(self._objective, x",
        STEP,
    ),
    Mutant(
        "distillation: the EMA of the student teaches it",
        "training/trainer.py",
        "model(callable_of(frozen), ",
        "model(callable_of(self.ema), ",
        STEP,
    ),
    Mutant(
        "distillation: health is measured with the student as its teacher",
        "training/losses.py",
        "model.distillation_error(self._teacher, x",
        "model.distillation_error(model, x",
        "tests/test_distillation_step.py::test_health",
    ),
    Mutant(
        "distillation: the interval is twice as long",
        "training/losses.py",
        "(share - 1 / parts)",
        "(share - 2 / parts)",
        STEP,
    ),
    Mutant(
        "distillation: the interval is on the other side of its time",
        "training/losses.py",
        "t, s = self._times(share), self._earlier(share, path_parts(self._distill, step))",
        "t, s = self._earlier(share, -path_parts(self._distill, step)).clamp(max=1), self._times(share)",
        STEP,
    ),
    Mutant(
        "distillation: the path is divided a step too early",
        "training/losses.py",
        "path_parts(self._distill, step)",
        "path_parts(self._distill, step + 1)",
        STEP,
    ),
    Mutant(
        "distillation: another exponent of the loss weight",
        "core/weighting.py",
        "_CONSISTENCY_POWER = 0.25",
        "_CONSISTENCY_POWER = 0.5",
        STEP,
    ),
    Mutant(
        "distillation: the loss weight of the teacher",
        "workflows/distillation.py",
        '"optim.loss_weight": "consistency"',
        '"optim.loss_weight": "balanced"',
        "tests/test_distill.py::test_the_schedule_follows_the_steps_and_the_parts",
    ),
    *(
        Mutant(
            f"Python: {name} ignored",
            "api/model.py",
            "SamplingRequest(**{one.name: options.get(one.name) for one in SAMPLING_OPTIONS})",
            f"SamplingRequest(**{{one.name: options.get(one.name) for one in SAMPLING_OPTIONS if one.name != {name!r}}})",
            f"{OPTIONS}[{name}]",
        )
        for name in ("sampler", "steps", "eta", "delta", "label", "guidance", "final")
    ),
    *(
        Mutant(
            f"Python: {name} ignored in load",
            "api/model.py",
            "load_model(path, device, calibrated, weaker, precision)",
            f"load_model({arguments})",
            tests,
        )
        for name, arguments, tests in (
            ("guide", "path, device, calibrated, None, precision", f"{OPTIONS}[guide]"),
            ("calibrated", "path, device, True, weaker, precision", f"{OPTIONS}[calibrated]"),
            ("precision", "path, device, calibrated, weaker, None", f"{OPTIONS}[precision]"),
            ("device", 'path, "cpu", calibrated, weaker, precision', "tests/test_options.py::test_options_of_sweep"),
        )
    ),
    *(
        Mutant(f"Python: {name} of train ignored", "api/training.py", f'options.get("{name}")', "None", tests)
        for name, tests in (
            ("purpose", "tests/test_options.py::test_options_of_training"),
            ("hours", "tests/test_python_data.py::test_the_same_call_continues"),
        )
    ),
    *(
        Mutant(f"Python: the options of {what} ignored", f"api/{file}.py", old, new, f"{OPTIONS}[steps]")
        for what, file, old, new in (
            ("sample", "model", "sampling = self.sampling(options)", "sampling = self.sampling({})"),
            ("animate", "model", "seed, options, self.sampling(options))", "seed, options, self.sampling({}))"),
            ("score", "model", 'options.get("seed", 0), self.sampling(options))', 'options.get("seed", 0), self.sampling({}))'),
        )
    ),
    Mutant(
        "Python: the options of denoise ignored",
        "api/model.py",
        "z, t, seed, self.sampling(options))",
        "z, t, seed, self.sampling({}))",
        "tests/test_options.py::test_options_of_estimates",
    ),
    Mutant(
        "Python: seed of scored images ignored",
        "api/model.py",
        'count, options.get("seed", 0), self.sampling',
        "count, 0, self.sampling",
        f"{OPTIONS}[seed]",
    ),
    Mutant(
        "Python: options of images that are there pass",
        "api/scores.py",
        "if unused := given_names(options, *_MAKING):",
        "if False:",
        "tests/test_options.py::test_images_that_are_there_are_not_made",
    ),
    Mutant(
        "Python: options of a sampler pass for a forward animation",
        "api/animation.py",
        'if direction == "forward" and unused:',
        "if False:",
        "tests/test_options.py::test_a_forward_process_is_not_sampled",
    ),
    *(
        Mutant(f"{command}: {what} ignored", f"cli/{command}.py", old, new, f"tests/test_options.py::test_options_of_{test}")
        for command, what, old, new, test in (
            ("diagnose", "--seed", "data, split, n, seed)", "data, split, n, 0)", "diagnose"),
            ("diagnose", "--split", "chosen_run, data, split,", "chosen_run, data, model.config.score.split,", "diagnose"),
            ("likelihood", "--seed", "data, split, n, seed)", "data, split, n, 0)", "likelihood"),
            ("sweep", "--no-calibration", "(path, device, calibrated,", "(path, device, True,", "sweep"),
            ("sweep", "--mode", "ScoringOptions(features, mode,", "ScoringOptions(features, None,", "sweep"),
            ("sweep", "--inception", "published, inception, device)", "published, None, device)", "sweep"),
            ("restore", "--guide", "device, guide=guide, precision", "device, precision", "restore"),
            ("restore", "--class", "precision)[0], request.label,", "precision)[0], None,", "restore"),
            ("report", "--precision", "(path, device, precision=precision)", "(path, device)", "report_and_push"),
            ("push", "--precision", "animation, scores, precision)", "animation, scores)", "report_and_push"),
            ("distill", "--precision", "with_precision(assignments, precision))", "assignments)", "training"),
            ("bench", "--precision", "with_precision(assignments, precision))", "assignments)", "training"),
            ("prefetch", "--mode", "mode or config.score.mode", "config.score.mode", "prefetch"),
        )
    ),
    Mutant(
        "train: --for ignored",
        "cli/train.py",
        "precision), hours, purpose)",
        "precision), hours)",
        "tests/test_own_images.py::test_a_model_that_restores_learns_patches",
    ),
    Mutant(
        "restore: the classes of a draw in its first windows only",
        "core/windows.py",
        "value[images] if isinstance",
        "value if isinstance",
        "tests/test_options.py::test_options_of_restore",
    ),
    Mutant(
        "restore: scores do not record the guidance",
        "cli/restoration_score.py",
        '("label", "guidance", "guide")',
        "()",
        "tests/test_options.py::test_options_of_restore",
    ),
    Mutant(
        "restore: scores after different kernels are comparable",
        "model/restore_options.py",
        'f"kernel {digest(self.kernel)}"',
        '"another kernel"',
        "tests/test_restoration_score.py::test_every_damage_has_a_name_of_its_own",
    ),
    Mutant(
        "a folder of samples with a gap is complete",
        "visualize/image_folder.py",
        "if index not in found or not is_whole(self._file(index))]",
        "if index > max(found, default=-1)]",
        "tests/test_image_folder.py::test_what_is_missing_is_made_and_nothing_else",
    ),
    Mutant(
        "a folder of samples of other weights is continued",
        "workflows/session.py",
        '"weights": model.digest, "calibrated"',
        '"weights": None, "calibrated"',
        "tests/test_image_folder.py::test_other_weights_at_the_same_path_are_another_setting",
    ),
    Mutant(
        "a folder of samples from another start is continued",
        "workflows/session.py",
        'record |= {"interpolate": self.interpolate, "same_init": self.same_init, "share_noise": self.share_noise}',
        "pass",
        "tests/test_options.py::test_options_of_the_start",
    ),
    Mutant(
        "progress of guided images to 200%",
        "model/pipeline.py",
        "(i + 1) / len(plan)",
        "(i + 1) / len(plan) * 2",
        "tests/test_options.py::test_progress_ends_at_the_number_of_images",
    ),
    Mutant(
        "windows of a comparison begin at 0 again",
        "model/restorer.py",
        "on_progress(before + windows)",
        "on_progress(windows)",
        "tests/test_restore.py::test_progress_ends_at_the_number_of_windows",
    ),
    Mutant(
        "report: samples of another step",
        "visualize/report_pictures.py",
        "files[-1][0] == subject.step and",
        "",
        "tests/test_report.py::test_pictures_are_of_their_step",
    ),
    Mutant(
        "report: previews under another step",
        "visualize/report_pictures.py",
        "zip(previews, images, strict=True)",
        "zip(previews, images[::-1], strict=True)",
        "tests/test_report.py::test_pictures_are_of_their_step",
    ),
    Mutant(
        "classes of an exported model are those of seed 0",
        "portable/process.py",
        'draw_classes(self._classes["counts"], seed, ',
        'draw_classes(self._classes["counts"], 0, ',
        "tests/test_export.py -k another",
    ),
    Mutant(
        "classes are those of seed 0",
        "model/conditioning.py",
        "draw_classes(self.classes.counts, seed, ",
        "draw_classes(self.classes.counts, 0, ",
        "tests/test_classes.py::test_which_class_an_image_has",
    ),
    *(
        Mutant(
            f"an imported {what} is transposed",
            "importing/adm.py",
            "found[ours] = tensor.reshape(shape)",
            f"found[ours] = ({turned} if tensor.ndim == {dimensions} and len(tensor) == tensor.shape[1] else tensor).reshape(shape)",
            "tests/test_import.py::test_the_network_is_the_same_function",
        )
        for what, dimensions, turned in (
            ("square linear layer", 2, "tensor.mT"),
            ("square attention", 3, "tensor.transpose(0, 1)"),
            ("square convolution", 4, "tensor.transpose(0, 1)"),
            ("convolution kernel", 4, "tensor.mT"),
        )
    ),
    Mutant(
        "own images: one broken photo ends it",
        "workflows/training_setup.py",
        "                unreadable = error\n                continue\n",
        "                raise error\n",
        "tests/test_own_images.py::test_every_image_counts",
    ),
    Mutant(
        "own images: colors of the last photo",
        "workflows/training_setup.py",
        "gray = gray and int(",
        "gray = int(",
        "tests/test_own_images.py::test_every_image_counts",
    ),
    Mutant(
        "own images: size of the last photo",
        "workflows/training_setup.py",
        "int(np.median(sides))",
        "int(sides[-1])",
        "tests/test_own_images.py::test_every_image_counts",
    ),
    *(
        Mutant(f"restore: {what}", file, old, new, f"tests/test_restore_photos.py::{test}")
        for what, file, old, new, test in (
            (
                "hidden colors count",
                "model/restorer.py",
                "photo.with_hidden_filled()",
                "photo",
                "test_hidden_colors_influence_no_visible_pixel",
            ),
            ("masks do not grow", "data/photos.py", "2 * px + 1", "1", "test_a_mask_grows_by_whole_pixels"),
            (
                "the strength is twice as large",
                "model/restorer.py",
                "options.strength * (draws",
                "min(1, 2 * options.strength) * (draws",
                "test_strength_mixes_photo_and_result",
            ),
            (
                "the worst part is an average",
                "model/scene.py",
                "max(worst, default=whole)",
                "whole",
                "test_the_worst_part_is_named",
            ),
            (
                "unknown pixels are misfits",
                "model/scene.py",
                "errors.sum() / counts.sum()",
                "squares.mean()",
                "test_unknown_pixels_are_no_misfit",
            ),
            (
                "the table forgets what was estimated",
                "cli/restoration_files.py",
                '" ".join(facts["estimated"])',
                '""',
                "test_a_folder_has_a_table",
            ),
            (
                "profiles stay",
                "cli/restoration_files.py",
                "exif=None, profile=None) if strip",
                "exif=None) if strip",
                "test_metadata_are_kept_or_left_out",
            ),
            (
                "no warning of reduced images",
                "model/restorer.py",
                'crop == "random":',
                'crop == "":',
                "test_a_model_of_reduced_images_warns",
            ),
            (
                "colors of 16 bits are those of 8",
                "data/photos.py",
                "np.stack(channels) / _DEEP, deep=True",
                "photo.pixels, deep=True",
                "test_colors_of_sixteen_bits_keep_their_depth",
            ),
        )
    ),
    *(
        Mutant(f"found in photos: {what}", file, old, new, f"tests/test_degradation.py::{test}")
        for what, file, old, new, test in (
            (
                "compression is not seen",
                "core/blind.py",
                "torch.maximum(others[-1] / 4,",
                "torch.maximum(0 * others[-1],",
                "test_blur_is_found_under_compression",
            ),
            (
                "compression has no error",
                "core/blind.py",
                "math.hypot(value, error)",
                "value",
                "test_compression_is_no_blur",
            ),
            ("steps lie on their side", "data/photos.py", "table.T if", "table if", "test_the_steps_turn_with_the_photo"),
            (
                "the mean of the parts decides",
                "model/degradation.py",
                "replace(whole, blur_px=least,",
                "replace(whole, blur_px=most,",
                "test_the_sharpest_part_decides",
            ),
            (
                "colors have the noise of brightness",
                "model/degradation.py",
                "max(colors, found.noise.value)",
                "found.noise.value",
                "test_noise_of_colors",
            ),
            (
                "colors are smoothed by the noise of brightness",
                "model/restorer.py",
                "max(noise, found.color_noise or 0.0)",
                "noise",
                "test_colors_are_smoothed_by_their_own_noise",
            ),
            (
                "a full disk is noticed late",
                "cli/restoration_plan.py",
                "files.check_space(self.target.path, size)",
                "pass",
                "test_a_full_disk_is_noticed_first",
            ),
            (
                "photos that are done are announced",
                "cli/restore.py",
                "or not target.is_done(source)]",
                "or True]",
                "test_several_photos_are_announced",
            ),
        )
    ),
    *(
        Mutant(f"camera: {what}", file, old, new, f"tests/test_camera.py::{test}")
        for what, file, old, new, test in (
            (
                "a power of 2.2",
                "core/camera.py",
                "0.055, 2.4",
                "0.055, 2.2",
                "test_the_curve_is_that_of_the_standard",
            ),
            (
                "the slope of another curve",
                "core/camera.py",
                "_upper(v) ** (_POWER - 1)",
                "_upper(v) ** _POWER",
                "test_the_curve_has_an_inverse_and_a_slope",
            ),
            (
                "the derivative without the slope of the image",
                "core/camera.py",
                "before, after = light_slope(stored), weight",
                "before, after = torch.ones_like(stored), weight",
                "test_the_derivative_is_that_of_the_camera",
            ),
            (
                "the derivative in other colors",
                "core/camera.py",
                "return self.after.to(y) * self.colors.colors_to_rgb(y)",
                "return self.after.to(y) * y",
                "test_a_weighted_measurement_has_a_transpose",
            ),
            (
                "black and white are measurements",
                "core/camera.py",
                "~(low & (seen <= 0) | high & (seen >= 1))",
                "1",
                "test_a_clipped_lamp_has_no_dark_ring",
            ),
            (
                "black and white are never measurements",
                "core/camera.py",
                "~(low & (seen <= 0) | high & (seen >= 1))",
                "~(low | high)",
                "test_only_what_is_no_measurement_has_no_weight",
            ),
            (
                "missing pixels are measurements",
                "core/camera.py",
                "weight = exposure.known.to(seen) *",
                "weight = torch.ones_like(seen) *",
                "test_only_what_is_no_measurement_has_no_weight",
            ),
            (
                "stored values are linear light",
                "core/camera.py",
                "return light <= (1 + (_UNLIKE_COMPRESSED if compressed else _UNLIKE_LIGHT)) * stored",
                "return True",
                "test_the_light_is_told_by_the_photo",
            ),
            (
                "counts of a sensor are not linear",
                "model/restorer.py",
                "options.enlarge > 1 or scientific",
                "options.enlarge > 1",
                "test_the_light_is_told_by_the_photo",
            ),
            (
                "a light without a blur in the sentence",
                "model/restored.py",
                "noise=None, light=None)",
                "noise=None)",
                "test_a_light_that_is_none_is_refused",
            ),
            (
                "the border is reflected",
                "model/scene.py",
                "return cls(photo, options, blur_px, linear_light, 0 if whole",
                "return cls(photo, options, blur_px, linear_light, 0 if True",
                "test_the_border_is_restored_like_the_inside",
            ),
            (
                "the margin is that of the photo",
                "model/scene.py",
                "margin = self.margin_px * self.options.enlarge",
                "margin = self.margin_px",
                "test_an_enlarged_photo_has_its_place_and_its_values",
            ),
            (
                "kernels are turned",
                "core/measurements.py",
                "kernel[:height, :width] = self.kernel.to(padded)",
                "kernel[:height, :width] = self.kernel.to(padded).flip(0, 1)",
                "test_any_kernel",
            ),
            (
                "windows are normalized one by one",
                "core/windows.py",
                "for image, y, x in part])",
                "for image, y, x in part]); windows = windows - windows.mean((-2, -1), keepdim=True)",
                "test_windows_leave_no_seams",
            ),
            (
                "windows depend on their batch",
                "core/windows.py",
                "for image, y, x in part])",
                "for image, y, x in part]); windows = windows - windows.mean(0)",
                "test_batches_change_nothing",
            ),
            (
                "gray levels are half a level brighter",
                "model/photo_space.py",
                "self._model.to_rgb(x).double() + 1)",
                "self._model.to_rgb(x).double() + 1.004)",
                "test_the_mean_colors_stay",
            ),
            (
                "windows are not blended",
                "core/windows.py",
                "torch.sin(torch.pi / 2 * (to_edge / overlap).clamp(max=1)) ** 2",
                "torch.ones_like(to_edge)",
                "test_windows_leave_no_seams",
            ),
            (
                "boxes are shifted",
                "core/measurements.py",
                "gain * sign / box**0.5",
                "gain / box**0.5",
                "test_an_enlarged_photo_has_its_place_and_its_values",
            ),
            (
                "the coverage of means is that of pixels",
                "evaluate/restoration.py",
                "coverage(_box_means(found.draws), _box_means(truth.pixels))",
                "coverage(found.draws, truth.pixels)",
                "test_a_wrong_brightness_is_noticed_in_the_means_only",
            ),
            (
                "the interval of the draws is too narrow",
                "evaluate/restoration.py",
                "student.ppf(_WITHIN, count - 1) * (1 + 1 / count) ** 0.5",
                "student.ppf(_WITHIN - 0.1, count - 1)",
                "test_the_coverage_tells_an_honest_spread",
            ),
        )
    ),
    *(
        Mutant(
            f"training: {what}",
            f"training/{file}.py",
            old,
            new,
            "tests/test_train.py::test_intervals_and_what_is_recorded_at_them",
        )
        for what, file, old, new in (
            ("metrics a step too early", "loop", "trainer.step % settings.log", "(trainer.step + 1) % settings.log"),
            ("learning rate of the next step recorded", "logging", "self._trainer.step - 1)", "self._trainer.step)"),
            ("checks a step too late", "monitoring", "trainer.step % every == 0", "trainer.step % every == 1"),
            ("weights saved without averaging", "monitoring", "dict(trainer.ema.state", "dict(trainer.network.state"),
            (
                "previews without averaging",
                "monitoring",
                "Pipeline(trainer.config, trainer.ema, data",
                "Pipeline(trainer.config, trainer.network, data",
            ),
            ("health of the EMA twice", "monitoring", "losses(trainer, trainer.network)", "losses(trainer, trainer.ema)"),
            ("states a step too late", "checkpointing", "save_every_steps == 0", "save_every_steps == 1"),
        )
    ),
    *(
        Mutant(f"restored page: {what}", file, old, new, f"tests/test_restoration_page.py::{test}")
        for file, what, old, new, test in (
            *(
                ("visualize/templates/restored.html", *rest)
                for rest in (
                    ("the strength is that of the photo", "opacity = 1 - share", "opacity = share", "test_pixel_for_pixel"),
                    (
                        "the result covers the photo",
                        "mix-blend-mode: plus-lighter",
                        "mix-blend-mode: normal",
                        "test_transparent_pixels_are_mixed_exactly",
                    ),
                    (
                        "pixels are blurred",
                        "height: 100%; image-rendering: pixelated",
                        "height: 100%",
                        "test_an_enlarged_photo_is_shown_by_repeated_pixels",
                    ),
                    ("pixels of any size", "Math.round(ratio)) / ratio", "Math.round(ratio)) / 2", "test_pixel_for_pixel"),
                    (
                        "the sides are exchanged",
                        "clip-path: inset(0 0 0 var(--at))",
                        "clip-path: inset(0 calc(100% - var(--at)) 0 0)",
                        "test_the_keyboard_reaches_everything",
                    ),
                    (
                        "the list of photos takes no letters",
                        ' || target === "SELECT") return',
                        ") return",
                        "test_the_keyboard_reaches_everything",
                    ),
                    (
                        "a finger cannot scroll",
                        '(event.pointerType === "touch" && event.target !== at("divider"))',
                        "false",
                        "test_a_finger_moves_the_divider_by_its_knob_and_scrolls_elsewhere",
                    ),
                    (
                        "a finger cannot drag",
                        "touch-action: none",
                        "touch-action: auto",
                        "test_a_finger_moves_the_divider_by_its_knob_and_scrolls_elsewhere",
                    ),
                    (
                        "the knob of a large photo is out of sight",
                        "position: sticky; top: calc(50% - 16px)",
                        "position: relative; top: calc(50% - 16px)",
                        "test_a_finger_moves_the_divider_by_its_knob_and_scrolls_elsewhere",
                    ),
                    (
                        "the mouse moves it without a button",
                        "if (dragging) follow(event)",
                        "follow(event)",
                        "test_the_mouse_moves_the_divider",
                    ),
                    (
                        "pictures beside it are forbidden",
                        """{{ " file: 'self'" if folder }}""",
                        "",
                        "test_pictures_beside_the_page_are_shown",
                    ),
                    ("a control has no name", ' aria-label="next photo"', "", "test_the_keyboard_reaches_everything"),
                )
            ),
            *(
                ("visualize/restoration_page.py", *rest)
                for rest in (
                    (
                        "large pictures stay in memory",
                        "* _BASE64 > MOST_BYTES",
                        "* 0 > 1",
                        "test_the_folder_goes_with_its_page",
                    ),
                    ("its text has no bytes", "len(page) > MOST_BYTES", "False", "test_the_text_of_many_photos_counts"),
                    ("foreign files are replaced", "if not (free or", "if not (True or", "test_foreign_files_are_not_touched"),
                    (
                        "old pictures stay",
                        "            self._clear_folder()\n            with",
                        "            with",
                        "test_pictures_of_a_large_page_are_beside_it",
                    ),
                    ("EXIF data stay", "deep=False, exif=None", "deep=False", "test_photos_of_every_kind"),
                    (
                        "the mean is a draw",
                        "restored.mean, restored",
                        "restored.draws[0], restored",
                        "test_the_page_has_the_pictures_of_the_files",
                    ),
                    (
                        "the scale of the spread is wrong",
                        "* 255 / white)",
                        "* 128 / white)",
                        "test_the_page_has_the_pictures_of_the_files",
                    ),
                    (
                        "flags are not spelled",
                        "spelled(restored.description, console.flag)",
                        "restored.description",
                        "test_the_page_says_what_was_found_and_how",
                    ),
                    (
                        "an interrupted one is lost",
                        "        finally:\n            if",
                        "        except ZeroDivisionError:\n            pass\n        else:\n            if",
                        "test_an_interrupted_page_has_what_is_done",
                    ),
                )
            ),
        )
    ),
    *(
        Mutant(f"several runs: {what}", file, old, new, f"tests/test_several_runs.py::{test}")
        for what, file, old, new, test in (
            (
                "free keys keep seeds apart",
                "evaluate/trainings.py",
                '({"seed", *FREE_KEYS}, {"seed"})',
                '({"seed"}, {"seed"})',
                "test_keys_that_change_nothing_learned_do_not_matter",
            ),
            (
                "one training counts twice",
                "evaluate/trainings.py",
                "if len(seeds) == len(members):",
                "if True:",
                "test_a_seed_that_occurs_twice",
            ),
            (
                "steps are not told apart",
                "evaluate/trainings.py",
                'across=("weights_sha256",)',
                'across=("weights_sha256", "step", "steps", "calls")',
                "test_other_differences_are_rows_of_their_own",
            ),
            (
                "the spread of a population",
                "evaluate/trainings.py",
                "statistics.stdev(means)",
                "statistics.pstdev(means)",
                "test_trainings_that_differ_in_the_seed_are_one_row",
            ),
            (
                "calls are steps",
                "core/sampling_options.py",
                "* SAMPLERS[self.sampler].calls_per_step * (1 + guided)",
                "",
                "test_network_calls_of_a_score",
            ),
            (
                "runs of different images in one plot",
                "visualize/run_comparison.py",
                "if own != expected:",
                "if False:",
                "test_runs_that_cannot_be_compared",
            ),
            (
                "losses of different objectives in one plot",
                "visualize/run_comparison.py",
                "config.objective, optim",
                '"", optim',
                "test_losses_of_different_objectives_are_never_in_one_plot",
            ),
        )
    ),
    *(
        Mutant(f"restored frames: {what}", file, old, new, f"tests/test_restoration_frames.py::{test}")
        for what, file, old, new, test in (
            (
                "the last draw",
                "model/restorer.py",
                "x_hat[: self.photos.images(photo)]",
                "x_hat[-self.photos.images(photo) :]",
                "test_estimates_are_those_of_the_first_draw",
            ),
            (
                "every batch",
                "model/restorer.py",
                "on_step if 0 in indices else None",
                "on_step",
                "test_estimates_are_those_of_the_first_draw",
            ),
            (
                "estimates of another strength",
                "model/restorer.py",
                "finish(self.photos.to_photo(x_hat[: self.photos.images(photo)], photo))",
                "self.photos.to_photo(x_hat[: self.photos.images(photo)], photo)",
                "test_estimates_keep_what_the_result_keeps",
            ),
            (
                "estimates without the photo",
                "core/restoration.py",
                "return idct2(self._last).to(z)",
                "return idct2(x_dct).to(z)",
                "test_estimates_agree_with_the_photo",
            ),
            (
                "the result is missing",
                "visualize/restoration_frames.py",
                "            self._frame(result),\n",
                "            self._frame(given.repeat(factor, 1).repeat(factor, 2)),\n",
                "test_from_the_photo_to_the_result",
            ),
            (
                "transparency over black",
                "visualize/restoration_frames.py",
                '"white"',
                '"black"',
                "test_photos_of_other_kinds_and_sizes",
            ),
            (
                "large photos stay large",
                "visualize/restoration_frames.py",
                "/ _LARGEST_PX)",
                "/ 10**9)",
                "test_photos_of_other_kinds_and_sizes",
            ),
            (
                "done photos have no frames",
                "cli/restore.py",
                "if animation is not None or not target",
                "if not target",
                "test_a_gif_has_all_frames",
            ),
            (
                "a comparison has no frames",
                "cli/restore.py",
                "restorer.compared(photo, options, update, on_step)",
                "restorer.compared(photo, options, update)",
                "test_a_page_and_an_animation",
            ),
        )
    ),
    *(
        Mutant(name, file, old, new, f"tests/test_study.py -k {test}")
        for name, file, old, new, test in (
            (
                "study: intervals have one degree of freedom more",
                "evaluate/paired.py",
                "stdtrit(count - 1,",
                "stdtrit(count,",
                "test_intervals",
            ),
            ("study: the interval is one-sided", "evaluate/paired.py", "(1 + CONFIDENCE) / 2", "CONFIDENCE", "test_intervals"),
            (
                "study: differences of unpaired seeds",
                "evaluate/paired.py",
                "value - base.values[seed]",
                "value - base.mean",
                "test_intervals",
            ),
            (
                "study: the spread is that of the mean",
                "evaluate/paired.py",
                "return _with_spread(self.mean, self.std)",
                "return _with_spread(self.mean, self.half_width)",
                "test_the_spread",
            ),
            (
                "study: seeds do not reach the training",
                "workflows/study_plan.py",
                '{"seed": seed, "train": train}',
                '{"train": train}',
                "test_a_training_is_that_of_train",
            ),
            (
                "study: samples have one seed",
                "workflows/study.py",
                "ModelImages(model, step, n, cell.seed,",
                "ModelImages(model, step, n, 0,",
                "test_samplers_and_bounds",
            ),
            (
                "study: sampler variants train anew",
                "config/study.py",
                'free = ("sample.", "score.", "train.steps")',
                'free = ("score.", "train.steps")',
                "test_variants_share",
            ),
            (
                "study: the preset's sampling does not matter",
                "workflows/study_plan.py",
                "return usual | chosen",
                "return chosen",
                "test_sample_keys",
            ),
            (
                "study: another protocol keeps the score",
                "workflows/study_plan.py",
                'own = {"score": shown, "request"',
                'own = {"request"',
                "test_another_protocol",
            ),
            (
                "study: trained lengths are trained again",
                "workflows/study.py",
                "if task.variant.weights is None and not _has_reached(task, steps):",
                "if task.variant.weights is None:",
                "test_what_is_done",
            ),
            (
                "study: tasks are not locked",
                "workflows/study.py",
                'files.locked(self._lock(task), "working on the study", console.notify)',
                "suppress()",
                "test_what_another",
            ),
            (
                "study: a diverged training ends the study",
                "workflows/study.py",
                "except DivergedError as error:",
                "except ZeroDivisionError as error:",
                "test_a_diverging",
            ),
            (
                "study: guides are those of the end",
                "workflows/study_plan.py",
                "return task, task.run.weights_path(steps)",
                "return task, task.run.weights_path(task.config.train.steps)",
                "test_weights_distillations",
            ),
            (
                "study: cooled trainings share their way",
                "workflows/study_plan.py",
                "groups.setdefault(cell.steps if cooled else None, [])",
                "groups.setdefault(None, [])",
                "test_a_cooled_training",
            ),
            (
                "study: images are steps",
                "config/study.py",
                "length // variant.config.train.batch_size",
                "length",
                "test_lengths_in_images",
            ),
            (
                "study: equal time is longer for the slower",
                "workflows/study_setup.py",
                "round(base / own)",
                "round(own / base)",
                "test_equal_time",
            ),
            (
                "study: a changed variant is trained on",
                "workflows/study_plan.py",
                "if old.get(key) != new.get(key)]",
                "if key == 'seed' and old.get(key) != new.get(key)]",
                "test_folders_of_something",
            ),
            (
                "study: lost lengths are forgotten",
                "workflows/study_plan.py",
                "steps < newest\n",
                "steps > newest\n",
                "test_folders_of_something",
            ),
            (
                "study: parts overlap",
                "workflows/study_plan.py",
                "groups[index - 1 :: count]",
                "groups[index - 1 :]",
                "test_parts",
            ),
            (
                "study: equal variants pass",
                "config/study.py",
                "if identity(one) == identity(other):",
                "if identity(one) is identity(other):",
                "test_wrong_files",
            ),
            (
                "study: a key without effect passes",
                "config/study.py",
                "if len(without) == len(assigned) and not sampling",
                "if len(without) > len(assigned) and not sampling",
                "test_wrong_files",
            ),
            (
                "study: a changed distillation keeps its folder",
                "workflows/study_plan.py",
                "(slug(one.name) + end)",
                "slug(one.name)",
                "test_a_changed_distillation",
            ),
            (
                "study: replaced weights keep their score",
                "workflows/study_plan.py",
                "return _hash_of(path, path.stat().st_mtime_ns)",
                "return str(path)",
                "test_replaced_files",
            ),
            (
                "study: other images are scored",
                "workflows/study.py",
                "if state.data != self._images(task.config).fingerprint:",
                "if not state.data:",
                "test_other_images",
            ),
            (
                "study: parts wait for each other",
                "workflows/study_plan.py",
                "joined = [group for group in groups if group & needed]",
                "joined = []",
                "test_what_needs",
            ),
            ("study: damaged scores count", "workflows/study_tasks.py", "and _is_score(line)}", "}", "test_damaged_records"),
            (
                "study: scores are of a variant's images",
                "workflows/study.py",
                "config = self.plan.study.config\n        features",
                "config = self.plan.tasks[-1].config\n        features",
                "test_scores_are_of",
            ),
            (
                "study: samples are made for each score",
                "workflows/study.py",
                "if key not in self._samples:",
                "if True:",
                "test_a_score_is_that_of_fid",
            ),
            ("study: LaTeX is not escaped", "base/tables.py", ".translate(_LATEX)", "", "test_tables_escape"),
            ("study: Markdown is not escaped", "base/tables.py", '.replace("|", "\\\\|")', "", "test_tables_escape"),
        )
    ),
)


def survives(mutant: Mutant, folder: Path) -> bool:
    """Whether all tests pass with the fault in a copy of the package below `folder`."""
    package = folder / "blurcli"
    shutil.copytree(ROOT / "blurcli", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "presets", folder / "presets")
    path = package / mutant.file
    code = path.read_text(encoding="utf-8")
    if code.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.file} has this code {code.count(mutant.old)} times: {mutant.old}")
    path.write_text(code.replace(mutant.old, mutant.new), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests.split()]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{mutant.name}: pytest cannot run these tests:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main(names: list[str]) -> int:
    """Try the faults of these names, or all; returns how many survive."""
    survivors = 0
    for mutant in MUTANTS:
        if names and mutant.name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            survived = survives(mutant, Path(folder))
        survivors += survived
        print(f"{'SURVIVES' if survived else 'caught  '}  {mutant.name}: {mutant.tests}", flush=True)
    return survivors


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
