"""The experiment that decides RHT's claims: who lends what, and every arm's network, on a few toy faces."""

import numpy as np
import pytest
import torch

from experiments import rht as claims
from experiments import rht_places as places
from facealign_lite import heatmaps, records, rht
from facealign_lite.data import Sample
from facealign_lite.training import complete


@pytest.fixture(scope="module")
def faces():
    rng = np.random.default_rng(0)
    return [Sample(rng.integers(0, 255, (96, 96), np.uint8), rng.uniform(20, 76, (68, 2))) for _ in range(4)]


def test_every_lender_lends_something_else(faces):
    references = rht.References.of(faces, 64)
    ways = {"most": np.array([0, 1, 2, 3]), "least": np.array([3, 2, 1, 0]), "neutral": np.array([2, 2, 2, 2])}
    lent = {}
    for name in claims.LENDERS:
        some, choice = claims.borrowed(name, references, ways.__getitem__, 4)
        lent[name] = torch.cat([some.images[choice].flatten(1), some.landmarks[choice].flatten(1)], 1)
    names = list(lent)
    assert all(not torch.equal(lent[a], lent[b]) for i, a in enumerate(names) for b in names[:i])
    pixels = 64 * 64
    for name in ("most_1_2", "most_1_4", "no_picture"):             # other pictures, the same landmarks
        assert torch.equal(lent[name][:, pixels:], lent["most"][:, pixels:])
    assert all(torch.equal(lent[name][:, :pixels], lent["most"][:, :pixels]) for name in ("wrong", "shifted"))
    moved = (lent["shifted"] - lent["most"])[:, pixels:].unflatten(1, (68, 2))
    torch.testing.assert_close(moved.norm(dim=-1), torch.full((4, 68), 16.0))
    assert (lent["mean_shape"][:, :pixels] == 0).all() and len(lent["mean_shape"][:, pixels:].unique(dim=0)) == 1
    with pytest.raises(ValueError, match="name must be"):
        claims.borrowed("best", references, ways.__getitem__, 4)


def test_a_network_that_knows_the_answer_has_no_error(faces):
    """Pairs, the network's inputs, decoding and errors fit together."""
    crops = rht.Pairs(faces, rht.References.of(faces, 64), [1, 2, 3, 0])

    class Knows(rht.Rht):
        def forward(self, image, reference, landmarks):
            which = [int((crops[i]["image"] - one).abs().sum(dtype=torch.float64).item() > 0) for one in image
                     for i in range(4)]
            rows = np.reshape(which, (len(image), 4)).argmin(1)
            points = torch.stack([crops[i]["landmarks"] for i in rows])
            assert torch.equal(landmarks, torch.stack([crops[i]["reference_landmarks"] for i in rows]))
            return rht.RhtOutput(None, None, rht.draw(heatmaps.to_heatmap(points, 128, 64))[:, :68])
    found = claims.measure(Knows(), faces, crops.references, crops.choice, "cpu")
    assert found.errors.max() < 0.01


def test_an_oracle_fetches_heat_from_where_the_landmarks_are(faces):
    """A face that lends to itself is matched place by place and moved by no map at all."""
    own = rht.References.of(faces, 32)
    pairs = rht.Pairs(faces, own, [0, 1, 2, 3], 64)
    batch = torch.utils.data.default_collate([pairs[i] for i in range(4)])
    net = claims.Oracle(rht.LITE.scaled(64)).eval()
    with torch.no_grad():
        moved = net(*(batch[name] for name in net.inputs)).moved
        heat = rht.draw(batch["reference_landmarks"], net.config)
        fetched = rht.transfer(heat, moved.index, moved.confidence)
    torch.testing.assert_close(fetched, heat, atol=1e-3, rtol=0)
    torch.testing.assert_close(moved.theta, torch.eye(2, 3).expand(4, -1, -1), atol=1e-3, rtol=0)


def test_the_arms_are_the_papers_tables_and_two_more_questions():
    arms = set(claims.arms(claims.BUDGETS["lite"]))
    assert set(rht.ABLATION) < arms
    assert {"no_boundaries", "trans_hg", "rht_hg", "trans_h", "rht_h", "mean_shape", "wrong"} < arms
    assert {"stm", "stm_oracle", "htm_oracle", "stm_wrong", "stm_mean_shape", "stm_shifted"} < arms
    assert set(places.arms(places.BUDGETS["lite"])) == {"blocks", "stm", "stm_oracle", "stm_wrong"}


def test_a_run_of_two_steps(faces):
    budget = claims.BUDGETS["lite"] | {"steps": 2}
    model = complete(claims.train(budget, "cpu", rht.LITE, faces, rht.References.of(faces, 64), 0, None))
    assert all(p.isfinite().all() for p in model.parameters()) and not model.training


@pytest.mark.parametrize("oracle, found, says", [
    (0.05, 0.06, "as the paper says"), (0.12, 0.06, "the idea fails"), (0.1, 0.06, "cannot be told: it is open"),
    (0.05, 0.11, "given maps make the error smaller; with maps that must be found, it is larger"),
    (0.05, 0.1, "cannot be told: given maps make the error smaller")])
def test_given_and_found_matches_say_together_what_was_seen(tmp_path, oracle, found, says):
    rng = np.random.default_rng(0)
    for arm, level in (("oracle", oracle), ("found", found), ("blocks", 0.1)):
        for seed in range(3):
            errors = level + rng.normal(0, 0.002, 40)
            records.write_record(f"{arm}-{seed}", {
                "what": "w", "data": "d", "budget": {}, "commit": "c", "device": "cpu", "seconds": 1.0, "seeds": [seed],
                "figures": {"nme": errors.mean(), "errors": errors}}, tmp_path)
    word, both = claims.diagnosis("oracle", "found", "blocks", tmp_path, "maps")
    assert word.startswith(says) and [one.comparison.better for one in both] == ["oracle", "found"]
    assert claims.diagnosis("nobody", "found", "blocks", tmp_path) == (claims.NOT_RUN, [])
