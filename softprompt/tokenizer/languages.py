"""Translation models' tokenizers: a language code stands beside every text.

The codes and their order (their ids follow from it) are those of fairseq's dictionaries, as
transformers lists them; which marks stand on which side of a text is a property of the family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from softprompt.tokenizer.fast import FastTokenizer


def _codes(text: str) -> tuple[str, ...]:
    return tuple(text.split())


MBART_LANGUAGES = _codes(
    """
    ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT
    lv_LV my_MM ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN
    """
)

MBART50_LANGUAGES = MBART_LANGUAGES + _codes(
    """
    af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF
    pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI
    """
)

NLLB_LANGUAGES = _codes(
    """
    ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn amh_Ethi apc_Arab
    arb_Arab ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn
    bak_Cyrl bam_Latn ban_Latn bel_Cyrl bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt
    bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn cjk_Latn ckb_Arab crh_Latn cym_Latn
    dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn est_Latn eus_Latn
    ewe_Latn fao_Latn pes_Arab fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gla_Latn
    gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn
    hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn
    kac_Latn kam_Latn kan_Knda kas_Arab kas_Deva kat_Geor knc_Arab knc_Latn kaz_Cyrl kbp_Latn
    kea_Latn khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn kon_Latn kor_Hang kmr_Latn lao_Laoo
    lvs_Latn lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn lua_Latn lug_Latn
    luo_Latn lus_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Latn mkd_Cyrl plt_Latn mlt_Latn
    mni_Beng khk_Cyrl mos_Latn mri_Latn zsm_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva
    nso_Latn nus_Latn nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pol_Latn
    por_Latn prs_Arab pbt_Arab quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Beng
    scn_Latn shn_Mymr sin_Sinh slk_Latn slv_Latn smo_Latn sna_Latn snd_Arab som_Latn sot_Latn
    spa_Latn als_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn szl_Latn tam_Taml
    tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi taq_Latn taq_Tfng tpi_Latn tsn_Latn
    tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab
    uzn_Latn vec_Latn vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans
    zho_Hant zul_Latn
    """
)

M2M100_LANGUAGES = _codes(
    """
    af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu
    ha he hi hr ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr
    ms my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk
    ur uz vi wo xh yi yo zh zu
    """
)

WMT21_LANGUAGES = _codes("en ha is ja cs ru zh de")


class TranslationTokenizer(FastTokenizer):
    """A tokenizer whose texts carry the code of their language.

    Parameters
    ----------
    tokenizer : FastTokenizer
        Cuts the texts.
    languages : mapping of str to int
        Ids of the codes.
    src_lang, tgt_lang : str
        Language of the texts to encode, and of the targets.
    code_stands : {"before", "after"}
        ``"before"``: code, text, end token (mBART-50, NLLB, M2M). ``"after"``: text, end token,
        code (mBART, NLLB with ``legacy_behaviour``).
    eos_token_id : int

    Raises
    ------
    ValueError
        A language that there is not.
    """

    def __init__(
        self,
        tokenizer: FastTokenizer,
        languages: Mapping[str, int],
        *,
        src_lang: str,
        tgt_lang: str,
        code_stands: str,
        eos_token_id: int,
    ) -> None:
        super().__init__(
            tokenizer.backend, bos_token_id=tokenizer.bos_token_id, eos_token_id=eos_token_id
        )
        self.languages = dict(languages)
        self._tokenizer = tokenizer
        self.code_stands = code_stands
        self.src_lang = src_lang
        self.tgt_lang = tgt_lang

    @property
    def src_lang(self) -> str:
        """Language of the texts that `encode` gets; may be set."""
        return self._src_lang

    @src_lang.setter
    def src_lang(self, language: str) -> None:
        self._src_lang = self._checked(language, "src_lang")

    @property
    def tgt_lang(self) -> str:
        """Language of the texts that `encode_target` gets; may be set."""
        return self._tgt_lang

    @tgt_lang.setter
    def tgt_lang(self, language: str) -> None:
        self._tgt_lang = self._checked(language, "tgt_lang")

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return self._tokenizer.vocab_size

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Turn a text of the source language into ids; see `FastTokenizer.encode`."""
        return self._marked(text, self.src_lang, add_special_tokens)

    def encode_target(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Turn a text of the target language into ids; see `FastTokenizer.encode_target`."""
        return self._marked(text, self.tgt_lang, add_special_tokens)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Turn ids into a text; see `FastTokenizer.decode`."""
        return self._tokenizer.decode(ids, skip_special_tokens)

    def id_to_token(self, token_id: int) -> str | None:
        """Return a token as the vocabulary writes it, or None for an id without a token."""
        return self._tokenizer.id_to_token(token_id)

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token as the vocabulary writes it, or None."""
        return self._tokenizer.token_to_id(token)

    def _marked(self, text: str, language: str, add_special_tokens: bool) -> list[int]:
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        if not add_special_tokens:
            return ids
        code = self.languages[language]
        if self.code_stands == "before":
            return [code, *ids, self.eos_token_id]
        return [*ids, self.eos_token_id, code]

    def _checked(self, language: str, name: str) -> str:
        if not isinstance(language, str) or language not in self.languages:
            raise ValueError(
                f"{name} is {language!r}, expected one of {', '.join(sorted(self.languages))}"
            )
        return language
