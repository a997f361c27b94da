"""A kind of label (midas_aug/targets.py). Answer the three questions first, in an issue.

The method asks three things of a label. The confidence of a modality is exp(−loss of its own
logits); shares, credit and the misaligned loss follow from that.
"""


def test_the_loss_of_a_prediction_is_one_number_a_row():
    raise NotImplementedError("fill in: the loss, held against loops over rows")


def test_it_says_which_labels_are_the_same():
    raise NotImplementedError("fill in: rows of the same label are never partners")


def test_the_dense_target_is_the_mix_of_both_labels():
    raise NotImplementedError("fill in: where a mix of labels is a label; else say that it is none")
