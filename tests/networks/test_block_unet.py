"""What is special to the block-level XAttnRes; test_every_network.py has what all networks share."""

import weakref

import pytest
import torch
from helpers.networks import ENCODERS, UPSTREAM, make_input, make_network, plan
from torch import nn

from nnunet_xattnres.networks.block_unet import XAttnResBlockUNet
from nnunet_xattnres.reads.block_read import DKVMR, ISAR
from nnunet_xattnres.reads.history import reads_of, source_names
from nnunet_xattnres.reads.recorder import knocked_out, recorded

KINDS = ("block", "block_published", "block_encoder")
every_encoder = pytest.mark.parametrize("encoder", ENCODERS)
every_kind = pytest.mark.parametrize("kind", KINDS)


def stages_of(network):
    """The blocks of every encoder and decoder stage, found in upstream's own places."""
    encoder = [s[0].convs if isinstance(s, nn.Sequential) else s.blocks for s in network.encoder.stages]
    return [list(s) for s in encoder], [list(s.convs) for s in network.decoder.stages]


def run_stage(network, name, blocks, x, memory):
    """The outputs of a stage's blocks. ``memory`` is what it reads beside them; None: its blocks read nothing."""
    outputs = []
    for i, block in enumerate(blocks, 1):
        if i > 1 and memory is not None:
            pool = [*outputs, outputs[-1]] if network.memory == "as_published" else [*memory, *outputs]
            several = len({id(v) for v in pool}) > 1
            assert several == (f"{name}_block{i}" in network.reads)
            x = network.reads[f"{name}_block{i}"](pool) if several else x
        x = block(x)
        outputs.append(x)
    return outputs


def by_hand(network, x):
    """The logits of every decoder stage, the highest resolution first, written from the paper's facts."""
    encoder, decoder = stages_of(network)
    x = network.encoder.stem(x) if hasattr(network.encoder, "stem") else x
    encoded = []
    for s, blocks in enumerate(encoder, 1):
        memory = None
        if network.encoder_isar:
            after = blocks[0](x)
            memory = [x] if after.shape == x.shape else []
        encoded.append(run_stage(network, f"e{s}", blocks, x, memory))
        x = encoded[-1][-1]
    logits = []
    for j, blocks in enumerate(decoder, 1):
        fused = network.reads[f"d{j}_skip"](encoded[-1 - j], network.decoder.transpconvs[j - 1](x))
        x = run_stage(network, f"d{j}", blocks, fused, [fused])[-1]
        logits.append(network.decoder.seg_layers[j - 1](x))
    return logits[::-1]


@every_kind
@every_encoder
@pytest.mark.parametrize("dimension", [2, 3])
def test_the_network_is_what_the_facts_say(dimension, encoder, kind):
    network = make_network(dimension, encoder, kind, "anisotropic")
    x = make_input(network)
    for a, b in zip(network(x), by_hand(network, x), strict=True):
        assert torch.equal(a, b)


@every_encoder
def test_which_read_sees_what(encoder):
    stages = {"n_stages": 3, "features_per_stage": [4, 8, 16], "kernel_sizes": 3, "strides": [1, 2, 2]}
    changes = {**stages, {"plain conv": "n_conv_per_stage", "residual": "n_blocks_per_stage"}[encoder]: [3, 1, 3]}

    def sources(kind):
        network = make_network(2, encoder, kind, **changes, n_conv_per_stage_decoder=[2, 3])
        assert list(network.reads) == list(source_names(network))
        return source_names(network)

    blocks = ["block1", "block2", "block3"]
    skips = {"d1_skip": blocks[:1], "d2_skip": blocks}
    decoder = {
        "d1_skip": skips["d1_skip"],
        "d1_block2": ["input", "block1"],
        "d2_skip": skips["d2_skip"],
        "d2_block2": ["input", "block1"],
        "d2_block3": ["input", "block1", "block2"],
    }
    # only behind the stem of a residual encoder does the first stage's input have the shape of its outputs
    first = {"residual": ["input"], "plain conv": []}[encoder]
    in_encoder = {"e1_block2": ["input", "block1"]} if first else {}
    in_encoder |= {"e1_block3": [*first, "block1", "block2"], "e3_block3": ["block1", "block2"]}
    assert sources("block") == decoder
    assert sources("block_encoder") == in_encoder | decoder
    assert sources("block_published") == skips | {"d2_block3": ["block1", "block2", "x"]}


@every_encoder
@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("kind", ["block", "block_encoder"])
def test_every_query_gets_a_gradient_at_its_start(kind, encoder, dimension):
    """But for residual blocks, of which nnU-Net starts all but the first as a nonlinearity: those are moved away."""
    network = make_network(dimension, encoder, kind)
    for read in network.reads.values():
        if isinstance(read, ISAR):
            nn.init.zeros_(read.query)
    sum(o.square().mean() for o in network(make_input(network))).backward()
    for name, read in network.reads.items():
        query = read.query if isinstance(read, ISAR) else read.query.weight
        # not of float32's rounding alone: beside the largest gradient of the same network
        largest = max(p.grad.abs().max() for p in network.parameters())
        assert query.grad.abs().max() > 1e-4 * largest, f"the query of {name} gets no gradient"


@every_kind
@every_encoder
def test_the_start_is_the_mean_after_nnunets_initialisation(encoder, kind):
    network = make_network(2, encoder, kind)
    isars = {name: read for name, read in network.reads.items() if isinstance(read, ISAR)}
    assert isars
    for read in isars.values():
        nn.init.zeros_(read.query)
    network.apply(network.initialize)
    weights = {}
    with recorded(network, weights.__setitem__), torch.no_grad():
        network(make_input(network))
    for name, read in isars.items():
        assert not read.query.any(), f"initialize has overwritten the query of {name}"
        torch.testing.assert_close(weights[name], torch.full_like(weights[name], 1 / read.n_sources))


@every_encoder
def test_as_published_two_blocks_are_dkvmr_alone(encoder):
    """Its ISAR would be the identity, with a query that never learns: it is not made, and the log says so."""
    network = make_network(2, encoder, "block_published", n_conv_per_stage_decoder=2)
    assert all(isinstance(read, DKVMR) for read in network.reads.values())
    assert network.note == (
        "Block-level XAttnRes: 3 skips are read (DKVMR), 0 blocks read their stage (ISAR); "
        "no ISAR in d1, d2, d3, for it needs a stage of three blocks, as it was published"
    )
    plain = [stage.register_forward_hook(lambda _m, args, out: None) for stage in network.decoder.stages]
    assert plain and len(network(make_input(network))) == 3


def test_a_decoder_of_one_block_a_stage_has_no_isar_and_says_so():
    """As nnU-Net's ResEnc plans are."""
    network = make_network(2, "residual", "block", n_blocks_per_stage=[1, 3, 4, 6], n_conv_per_stage_decoder=1)
    assert list(network.reads) == ["d1_skip", "d2_skip", "d3_skip"]
    assert network.note == (
        "Block-level XAttnRes: 3 skips are read (DKVMR), 0 blocks read their stage (ISAR); "
        "no ISAR in d1, d2, d3, for it needs a stage of two blocks"
    )
    mixed = make_network(2, "residual", "block", n_conv_per_stage_decoder=[2, 1, 3])
    assert mixed.note.endswith("3 skips are read (DKVMR), 3 blocks read their stage (ISAR); "
                               "no ISAR in d2, for it needs a stage of two blocks")  # fmt: skip
    assert make_network(2, "residual", "block").note.endswith("6 blocks read their stage (ISAR)")


@every_encoder
def test_upstreams_parts_and_their_keys_stay(encoder):
    ours = make_network(3, encoder, "block_encoder").state_dict()
    stock = UPSTREAM[encoder](**plan(3, encoder, n_blocks=3)).state_dict()
    assert {key for key in ours if not key.startswith("reads.")} == set(stock)
    changed = {key for key in stock if ours[key].shape != stock[key].shape}
    first = [f"decoder.stages.{j}.convs.0" for j in range(3)]
    # the fused map has the skip's width, where upstream's convolution takes twice that
    halved = {f"{stage}.{name}.weight" for stage in first for name in ("conv", "all_modules.0")}
    assert changed == {key for key in stock if key.removeprefix("decoder.encoder.") == key and key in halved}
    assert all(2 * ours[key].shape[1] == stock[key].shape[1] for key in changed)


def test_norm_nonlinearity_and_bias_of_the_fusion_are_the_plans():
    changes = {"norm_op": nn.BatchNorm2d, "norm_op_kwargs": {"eps": 1e-3}, "nonlin": nn.GELU, "nonlin_kwargs": {}}
    network = make_network(2, "plain conv", "block", **changes, conv_bias=False)
    fusion = network.reads["d1_skip"].fusion
    assert type(fusion.norm) is nn.BatchNorm2d and fusion.norm.eps == 1e-3 and type(fusion.nonlin) is nn.GELU
    assert fusion.conv.bias is None and fusion.conv.kernel_size == (1, 1)


@every_kind
def test_the_weights_are_recorded_and_the_outputs_stay(kind):
    network, found = make_network(3, "residual", kind), {}
    x, sources = make_input(network), source_names(network)
    with torch.no_grad():
        before = network(x)
        with recorded(network, found.__setitem__):
            after = network(x)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert list(found) == list(reads_of(network)) == list(sources)
    for name, weights in found.items():
        assert weights.shape[1] == len(sources[name]) == len(set(sources[name]))
        assert weights.std() > 1e-4, name
        torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]))


def test_a_source_is_knocked_out():
    network = make_network(2, "plain conv", "block")
    x = make_input(network)
    with torch.no_grad():
        before = network(x)[0]
        for name, sources in source_names(network).items():
            for k in range(len(sources)):
                with knocked_out(network, name, k):
                    assert not torch.equal(network(x)[0], before), f"{name}: {sources[k]}"
        assert torch.equal(network(x)[0], before)


def test_a_map_that_is_two_sources_is_knocked_out_whole():
    """In the published memory x is the last block's output once more: without the one, the other would stand in."""
    network, reads = make_network(2, "plain conv", "block_published"), []
    x = make_input(network)
    read = network.reads["d1_block3"]
    handle = read.register_forward_hook(lambda _m, args, out: reads.append((args[0][0], out)))
    assert source_names(network)["d1_block3"] == ["block1", "block2", "x"]
    with torch.no_grad():
        for source in (1, 2, 0):
            with knocked_out(network, "d1_block3", source):
                network(x)
    handle.remove()
    (block1, without_block2), (_, without_x), (_, without_block1) = reads
    torch.testing.assert_close(without_block2, block1)
    torch.testing.assert_close(without_x, block1)
    assert not torch.allclose(without_block1, block1)


@pytest.mark.skipif(not hasattr(torch.library, "custom_op"), reason="before torch 2.4 the graph may break")
def test_is_one_graph_for_torch_compile_with_its_backward():
    """Under autocast, as nnU-Net trains on CUDA, with all reads that there are, and with deep supervision off."""
    torch._dynamo.reset()
    three_stages = plan(2, "plain conv", n_stages=3, n_blocks=3)  # the fewest with reads of every kind
    network = make_network(2, "plain conv", "block_encoder", **three_stages)
    compiled, x = torch.compile(network, backend="aot_eager", fullgraph=True), make_input(network)
    for a, b in zip(compiled(x), network(x), strict=True):
        torch.testing.assert_close(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        sum(o.float().square().mean() for o in compiled(x)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    network.decoder.deep_supervision = False
    torch.testing.assert_close(compiled(x), network(x))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="memory is 'most'; it must be one of 'all', 'as_published'"):
        XAttnResBlockUNet(**plan(2, "plain conv"), memory="most")
    with pytest.raises(ValueError, match="n_stages is 1"):
        make_network(2, "plain conv", "block", **plan(2, "plain conv", n_stages=1))
    network = make_network(3, "plain conv", "block", "anisotropic")
    with pytest.raises(ValueError, match=r"spatial size \(16, 20, 16\).*multiples of \(4, 8, 8\)"):
        network(torch.randn(1, 2, 16, 20, 16))
    with pytest.raises(ValueError, match="3 axes"):
        network(torch.randn(1, 2, 16, 16))


def test_in_prediction_maps_are_gone_when_they_have_been_read():
    network = make_network(2, "plain conv", "block", "isotropic").eval()
    stages, alive, seen = network.encoder.stages, [], []
    first, last = stages_of(network)[0][0], stages_of(network)[1][-1]
    for block in first:
        block.register_forward_hook(lambda _module, _inputs, out: alive.append(weakref.ref(out)))
    last[0].register_forward_hook(lambda *_: seen.append([map_() is None for map_ in alive]))
    network.decoder.deep_supervision = False
    with torch.inference_mode():
        network(make_input(network, 1))
    assert len(stages) > 2 and seen == [[True] * len(first)]
