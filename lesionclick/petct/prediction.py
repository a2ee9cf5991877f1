"""What a model says of a PET/CT and prompts: the lesion logit on the PET's grid, with all that can be kept between."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.budget import Budget, Plan, Stopwatch
from lesionclick.images import Volume
from lesionclick.network import ensemble, tiles
from lesionclick.network.ensemble import Network, Placement
from lesionclick.network.preprocessing import (
    OUTSIDE_LOGIT,
    NetworkInput,
    index_on_network,
    lesion_logit_on_image,
    on_whole_grid,
    preprocess,
)
from lesionclick.network.tile_cache import KeyedTiles, TileCache
from lesionclick.network.tiles import Tile
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.neighbourhood import Near, windows_around
from lesionclick.petct.tile_prompts import TilePrompts, are_shown_by_tile
from lesionclick.prompts.points import Prompts

logger = logging.getLogger(__name__)

KEPT_BYTES = 2**29
"""Memory for the logits of tiles that are kept from prompt to prompt; a whole body takes a fifth of it."""

VIEW_AXES = (0, 1, 2)
"""Axes (of z, y, x) along which a prediction is mirrored to see how sure it is."""

# Thresholds of the body: air and lung lie below -500 HU, and even the lungs take up more than SUV 0.3.
BODY_HU = -500.0
BODY_SUV = 0.3


@dataclass(frozen=True)
class Predicted:
    """What the networks say.

    Attributes
    ----------
    lesion_logit
        The lesion's logit minus the background's, shape (z, y, x), float32.
    plan
        What there was time for.
    """

    lesion_logit: NDArray[np.float32]
    plan: Plan


class PetCtPredictor:
    """A model and a case, with the preprocessed images and the logits of tiles that prompts did not change.

    Parameters
    ----------
    model
        What predicts.
    case
        The images.
    """

    def __init__(self, model: PetCtModel, case: PetCtCase) -> None:
        self.model = model
        self.case = case
        self._inputs: dict[tuple[torch.device, torch.dtype], NetworkInput] = {}
        self._tiles = TileCache(KEPT_BYTES)
        self._near: tuple[Prompts, Placement, _Seen] | None = None
        """What the latest look at a neighbourhood took in, for the whole that follows it."""
        self._spacing = tuple(float(mm) for mm in model.content.configuration.spacing)
        patch_size = model.content.configuration.patch_size
        self._by_tile = not model.arithmetic.exact and are_shown_by_tile(model.encoding, patch_size, self._spacing)
        self._reach_mm = 0.0 if self._by_tile else model.encoding.mark_reach_mm(self._spacing)
        if not self.keeps_tiles:
            logger.info("a prompt of this model may change any tile: all of them are computed again after each")

    @property
    def keeps_tiles(self) -> bool:
        """Whether a further prompt leaves tiles as they are."""
        return self.model.content.prompt.stage == "network" and math.isfinite(self._reach_mm)

    def predict(self, prompts: Prompts, *, budget: Budget, watch: Stopwatch) -> Predicted:
        """Predict the case.

        Parameters
        ----------
        prompts
            Points on whole voxels inside the PET.
        budget
            Time for all of it.
        watch
            Where the seconds of the stages go.

        Raises
        ------
        OutOfMemoryError
            If the memory does not suffice.
        """

        def work(place: Placement) -> Predicted:
            return self._predict(prompts, _Pass(place, budget, watch))

        return ensemble.in_memory(work, self.model.networks, self.model.device)

    def predict_near(self, prompts: Prompts, points: Prompts, *, watch: Stopwatch) -> tuple[Near, ...]:
        """Predict the tiles alone that have some points near their middle, by the first fold: a look before `predict`.

        Points whose neighbourhoods overlap share one.

        Parameters
        ----------
        prompts
            All points, on whole voxels inside the PET.
        points
            Those whose neighbourhood is wanted, at least one; they need not be among the prompts.
        watch
            Where the seconds of the stages go.

        Raises
        ------
        OutOfMemoryError
            If the memory does not suffice.
        """

        def work(place: Placement) -> tuple[Near, ...]:
            return self._predict_near(prompts, points, _Pass(place, Budget(), watch))

        return ensemble.in_memory(work, self.model.networks, self.model.device)

    def _predict_near(self, prompts: Prompts, points: Prompts, one: _Pass) -> tuple[Near, ...]:
        self._near = None  # which may hold images where there is no memory for them
        seen, grid = self._input(prompts, one), self.case.pet.grid
        with one.watch.stage("predict nearby"), self.model.arithmetic.autocast(one.place.network):
            lesion_logit = self._compute(
                self.model.networks[0],
                seen,
                one,
                needed=self._around(points.indices_zyx(), seen.case),
                nearest=True,
                kept=self._kept(seen.prompts, one)(Plan(1), 0),
            )
        self._near = prompts, one.place, seen
        nears = []
        for window in windows_around(points, grid.shape_zyx, grid.spacing_zyx):
            values = np.empty([axis.stop - axis.start for axis in window], dtype=np.float32)
            corner = [axis.start for axis in window]
            voxels = np.indices((1, *values.shape[1:])).reshape(3, -1).T + corner  # slice by slice, for the memory
            for z, values_there in enumerate(values):
                there = self._lesion_logit_at(voxels + np.array([z, 0, 0]), seen.case, lesion_logit)
                values_there[:] = there.reshape(values_there.shape)
            nears.append(Near(window, values))
        return tuple(nears)

    def predict_views(
        self, prompts: Prompts, voxels_zyx: NDArray[np.integer], *, watch: Stopwatch, budget: Budget | None = None
    ) -> NDArray[np.float32]:
        """Predict some voxels several times: by each fold, and by each of them mirrored along each axis alone.

        Parameters
        ----------
        prompts
            Points on whole voxels inside the PET.
        voxels_zyx
            Indices on the PET, shape (n, 3), at least one. Only tiles that hold one of them are computed.
        watch
            Where the seconds of the stages go.
        budget
            Without a limit; its clock may raise to stop this between two tiles.

        Returns
        -------
        NDArray
            Lesion logits, shape (views, n): four views for each fold, the first of them not mirrored.

        Raises
        ------
        OutOfMemoryError
            If the memory does not suffice.
        """

        def work(place: Placement) -> NDArray[np.float32]:
            return self._predict_views(prompts, voxels_zyx, _Pass(place, budget or Budget(), watch))

        return ensemble.in_memory(work, self.model.networks, self.model.device)

    def _predict_views(self, prompts: Prompts, voxels_zyx: NDArray[np.integer], one: _Pass) -> NDArray[np.float32]:
        seen = self._input(prompts, one)
        needed = self._around(voxels_zyx, seen.case)
        views = []
        with one.watch.stage("predict views"), self.model.arithmetic.autocast(one.place.network):
            for fold, network in enumerate(self.model.networks):
                for axes in ((), *((axis,) for axis in VIEW_AXES)):
                    kept = self._kept(seen.prompts, one)(Plan(1), fold) if self.keeps_tiles and not axes else None
                    mirrored = partial(_mirrored, network, [axis + 2 for axis in axes])
                    lesion_logit = self._compute(mirrored, seen, one, needed=needed, kept=kept)
                    views.append(self._lesion_logit_at(voxels_zyx, seen.case, lesion_logit))
        return np.nan_to_num(np.stack(views), nan=OUTSIDE_LOGIT)

    def _compute(
        self,
        network: Network,
        seen: _Seen,
        one: _Pass,
        *,
        needed: torch.Tensor,
        kept: KeyedTiles | None,
        nearest: bool = False,
    ) -> NDArray[np.float32]:
        """Return the lesion's logit minus the background's in the needed tiles, shape (z, y, x), NaN elsewhere."""
        logits = tiles.predict(
            network,
            seen.data,
            self.model.content.configuration.patch_size,
            needed=needed,
            nearest=nearest,
            device=one.place.network,
            at_once=self._at_once(one.place),
            go_on=lambda: one.budget.left_s > 0,
            kept=kept,
            painted=seen.painted,
        )
        assert logits is not None  # there is no limit of time
        difference: NDArray[np.float32] = (logits[1].float() - logits[0].float()).cpu().numpy()
        return difference

    def _around(self, voxels_zyx: NDArray[np.number], case: NetworkInput) -> torch.Tensor:
        """Return the voxels of the network's grid that some voxels of the PET lie in, shape (z, y, x), bool."""
        places = index_on_network(self.model.content, case, voxels_zyx.astype(np.float64)).round().astype(int)
        around = torch.zeros(case.images.shape[1:], dtype=torch.bool, device=case.images.device)
        around[tuple(torch.from_numpy(places.clip(0, np.array(around.shape) - 1)).to(around.device).T)] = True
        return around

    def _lesion_logit_at(
        self, voxels_zyx: NDArray[np.number], case: NetworkInput, lesion_logit: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return a logit at voxels of the PET, interpolated, shape (n,); NaN beside what was computed."""
        places = index_on_network(self.model.content, case, voxels_zyx.astype(np.float64))
        values: NDArray[np.float32] = ndimage.map_coordinates(lesion_logit, places.T, order=1, mode="nearest")
        values[((places < -1) | (places > lesion_logit.shape)).any(axis=1)] = np.nan
        return values

    def _predict(self, prompts: Prompts, one: _Pass) -> Predicted:
        content = self.model.content
        near, self._near = self._near, None
        if near is None or near[:2] != (prompts, one.place):
            case, data, shown, painted = self._input(prompts, one)
        else:
            case, data, shown, painted = near[2]
        del near  # it holds the images
        with one.watch.stage("predict"), self.model.arithmetic.autocast(one.place.network):
            exact = self.model.arithmetic.exact
            predict = partial(ensemble.predict, in_order=True) if exact else ensemble.predict_adaptively
            predicted = predict(
                self.model.networks,
                data,
                content.configuration.patch_size,
                mirror_axes=content.prompt.prediction.mirror_axes,
                needed=case.needed,
                device=one.place.network,
                budget=one.budget,
                first_zyx=shown.prompts.indices_zyx().tolist(),
                at_once=self._at_once(one.place),
                kept=self._kept(shown, one) if self.keeps_tiles else None,
                painted=painted,
            )
        del data  # which may be the images
        case = case.without_images()
        if predicted.logits is None:
            logger.warning("plan: no time for any tile; the clicks alone count")
            nothing = np.full(self.case.pet.array.shape, OUTSIDE_LOGIT, dtype=np.float32)
            return Predicted(nothing, predicted.plan)
        with one.watch.stage("resample prediction"):
            plan = predicted.plan
            whole = on_whole_grid(case, predicted.logits, exact=exact)
            del predicted  # most of the memory that is left
            return Predicted(lesion_logit_on_image(content, case, whole, exact=exact), plan)

    def _at_once(self, place: Placement) -> int:
        """Return how many tiles are computed together."""
        if place.one_by_one:
            return 1
        return self.model.arithmetic.tiles_at_once(place.network, self.model.content.configuration.patch_size)

    def _tile_bytes(self, place: Placement) -> int:
        """Return the memory of a tile's logits, of background and lesion."""
        voxels: int = math.prod(self.model.content.configuration.patch_size)
        return 2 * voxels * self.model.arithmetic.dtype_on(place.network).itemsize

    def _kept(self, shown: TilePrompts, one: _Pass) -> Callable[[Plan, int], KeyedTiles]:
        """Return what names the tiles of a pass by all that their logits depend on, the marks that reach them."""

        def kept(plan: Plan, fold: int) -> KeyedTiles:
            def name(tile: Tile) -> Hashable:
                place = tuple((axis.start, axis.stop) for axis in tile)
                return one.place, plan.mirror_axes, fold, place, shown.reaching(tile, self._reach_mm)

            return self._tiles.of(name, self._tile_bytes(one.place))

        return kept

    def _input(self, prompts: Prompts, one: _Pass) -> _Seen:
        """Preprocess the images, and encode the prompts where no tile does."""
        model, grid = self.model, self.case.pet.grid
        if model.content.prompt.stage == "image":
            channels = model.encoding.encode(prompts, grid.shape_zyx, grid.spacing_zyx)
            images = [self._rounded(self.case.ct), self._rounded(self.case.pet), *channels.numpy()]
            with one.watch.stage("preprocess"):
                prepared = preprocess(
                    model.content,
                    images,
                    grid.spacing_zyx,
                    body=self._body(),
                    device=one.place.data,
                    dtype=model.images_dtype(one.place.network),
                    exact=model.arithmetic.exact,
                )
            return _Seen(prepared, prepared.images, self._shown(prepared, prompts, one))
        prepared = self._images(one)
        shown = self._shown(prepared, prompts, one)
        if self._by_tile:
            return _Seen(prepared, prepared.images, shown, shown)
        channels = model.encoding.encode(shown.prompts, prepared.images.shape[1:], self._spacing, one.place.data)
        return _Seen(prepared, torch.cat([prepared.images, channels.to(prepared.images.dtype)]), shown)

    def _shown(self, case: NetworkInput, prompts: Prompts, one: _Pass) -> TilePrompts:
        content = self.model.content
        moved = prompts.moved(lambda places: index_on_network(content, case, places, content.prompt.align))
        return TilePrompts(self.model.encoding, moved, self._spacing, one.place.data)

    def _rounded(self, image: Volume) -> NDArray[np.float32]:
        """Return an image in the precision that the model was trained with, and within its range, as float32."""
        array = image.array
        if (precision := self.model.content.prompt.precision) == "float16":
            limit = float(np.finfo(np.float16).max)  # which a PET in Bq/ml exceeds
            array = np.clip(array, -limit, limit)
        return array.astype(precision, copy=False).astype(np.float32, copy=False)

    def _body(self) -> NDArray[np.bool_] | None:
        """Return where a prediction is wanted, shape (z, y, x); None for everywhere, as in nnU-Net."""
        if self.model.arithmetic.exact:
            return None
        ct, pet = (torch.from_numpy(volume.array) for volume in (self.case.ct, self.case.pet))  # by all threads
        inside: NDArray[np.bool_] = (ct > BODY_HU).logical_or_(pet > BODY_SUV).numpy()
        return inside

    def _images(self, one: _Pass) -> NetworkInput:
        """Preprocess CT and PET, cut to the body; take them from before where they are known."""
        kind = one.place.data, self.model.images_dtype(one.place.network)
        if kind not in self._inputs:
            with one.watch.stage("preprocess"):
                prepared = preprocess(
                    self.model.content,
                    [self._rounded(self.case.ct), self._rounded(self.case.pet)],
                    self.case.pet.grid.spacing_zyx,
                    body=self._body(),
                    device=kind[0],
                    dtype=kind[1],
                    exact=self.model.arithmetic.exact,
                )
            self._inputs = {kind: prepared}
        return self._inputs[kind]


class _Seen(NamedTuple):
    """What the networks see: images, with the channels of the prompts where `painted` does not make them."""

    case: NetworkInput
    data: torch.Tensor
    prompts: TilePrompts
    painted: TilePrompts | None = None


@dataclass(frozen=True)
class _Pass:
    """One pass of the networks over a case."""

    place: Placement
    budget: Budget
    watch: Stopwatch


def _mirrored(network: Callable[[torch.Tensor], torch.Tensor], dims: Sequence[int], tile: torch.Tensor) -> torch.Tensor:
    """Return what a network says of a mirrored tile, mirrored back."""
    axes = list(dims)  # which may be none
    return network(tile.flip(axes)).flip(axes)
