"""Laws of the tables from high dynamic range to the ordinary one."""

import numpy as np
import pytest

from service.media.tones import HLG, PQ, tone_table


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_black_stays_black_and_brighter_stays_brighter(transfer: int) -> None:
    table = tone_table(transfer)
    assert table is not None and table.shape == (256,)
    assert table[0] == 0 and table[255] > 245
    assert (np.diff(table.astype(int)) >= 0).all()


def test_a_white_sheet_is_nearly_white_in_both() -> None:
    # 203 candelas a square metre: code 0.58 in PQ, 0.75 in HLG (ITU-R BT.2408, table 1).
    pq, hlg = tone_table(PQ), tone_table(HLG)
    assert pq is not None and hlg is not None
    assert 225 < pq[round(0.58 * 255)] < 245
    assert 225 < hlg[round(0.75 * 255)] < 245


def test_a_grey_card_has_the_grey_of_an_ordinary_picture() -> None:
    # 26 candelas a square metre, 0.38 in both codes: 13 % of white, 0.40 in sRGB.
    for transfer in (PQ, HLG):
        table = tone_table(transfer)
        assert table is not None
        assert table[round(0.38 * 255)] == pytest.approx(0.40 * 255, abs=12)


@pytest.mark.parametrize("transfer", [0, 1, 2, 6, 13])
def test_ordinary_curves_need_no_table(transfer: int) -> None:
    assert tone_table(transfer) is None
