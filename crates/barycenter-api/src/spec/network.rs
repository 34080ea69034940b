//! The architectures that checkpoints can belong to.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A built-in network, with `PyTorch` state-dict tensor names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NetworkSpec {
    /// `nn.Sequential` of linear layers with a ReLU between each two: tensors `0.weight`, `0.bias`, `2.weight`, ...
    Mlp {
        /// Width of the input, of each hidden layer and of the output, e.g. `[784, 512, 10]`.
        features: Vec<u64>,
    },
    /// CIFAR ResNet (He et al. 2015, section 4.2) with 1x1-convolution shortcuts.
    ResnetCifar {
        /// Depth, 6k + 2: 8, 14, 20, 32, 44, 56, 110.
        depth: u64,
        /// Classes.
        classes: u64,
    },
    /// ImageNet ResNet (He et al. 2015, table 1), as torchvision has it.
    Resnet {
        /// Depth: 18, 34 or 50.
        depth: u64,
        /// Classes.
        classes: u64,
    },
    /// VGG with batch norm for CIFAR images, as in the code of the SWA paper (arXiv 1803.05407): `features.N.*`, biased
    /// convolutions, three linear layers `classifier.1`, `.4` and `.6`. Dropout is left out.
    VggBn {
        /// Depth: 11, 13, 16 or 19.
        depth: u64,
        /// Classes.
        classes: u64,
    },
    /// Pre-activation ResNet for CIFAR images (He et al. 2016), as in the code of the SWA paper.
    PreresnetCifar {
        /// Depth: 6k + 2 below 44, from there on 9k + 2 with bottlenecks: 20, 32, 56, 110, 164.
        depth: u64,
        /// Classes.
        classes: u64,
    },
    /// Wide ResNet for CIFAR images (Zagoruyko and Komodakis 2016), as in the code of the SWA paper: biased convolutions.
    WideResnet {
        /// Depth, 6k + 4: 10, 16, 22, 28, 40.
        depth: u64,
        /// Width: times the channels of the plain network, 1 to 64.
        width: u64,
        /// Classes.
        classes: u64,
    },
    /// Vision Transformer (Dosovitskiy et al. 2021), torchvision's `VisionTransformer`: tensors `class_token`,
    /// `conv_proj.weight`, `encoder.layers.encoder_layer_0.ln_1.weight`, ...
    Vit {
        /// Height and width of an image, a multiple of the patch size.
        image_size: u64,
        /// Height and width of a patch.
        patch_size: u64,
        /// Width of a token.
        width: u64,
        /// Blocks.
        depth: u64,
        /// Heads of each attention; they divide the width.
        heads: u64,
        /// Width of the hidden layer of a block.
        mlp_width: u64,
        /// Classes.
        classes: u64,
    },
    /// CLIP's image tower (Radford et al. 2021) with a linear head, as in "Model soups": tensors
    /// `model.visual.class_embedding`, ..., `classification_head.weight`. What is left of the text tower is copied.
    ClipImage {
        /// Height and width of an image, a multiple of the patch size.
        image_size: u64,
        /// Height and width of a patch.
        patch_size: u64,
        /// Width of a token; the hidden layer of a block has four times as much.
        width: u64,
        /// Blocks.
        depth: u64,
        /// Heads of each attention; they divide the width.
        heads: u64,
        /// Width of the features that enter the head.
        embedding: u64,
        /// Classes.
        classes: u64,
    },
    /// GPT-2 (Radford et al. 2019), Hugging Face's `GPT2LMHeadModel`: tensors `transformer.wte.weight`,
    /// `transformer.h.0.attn.c_attn.weight`, ... The output layer is tied to the token embeddings and may be left out.
    Gpt2 {
        /// Tokens there are.
        vocabulary: u64,
        /// Most tokens of a sequence.
        positions: u64,
        /// Width of a token; the hidden layer of a block has four times as much.
        width: u64,
        /// Blocks.
        depth: u64,
        /// Heads of each attention; they divide the width.
        heads: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_convolutional_network_is_written_as_it_is_read() {
        for text in [
            r#"{"kind":"resnet_cifar","depth":20,"classes":10}"#,
            r#"{"kind":"resnet","depth":50,"classes":1000}"#,
            r#"{"kind":"vgg_bn","depth":16,"classes":100}"#,
            r#"{"kind":"preresnet_cifar","depth":164,"classes":100}"#,
            r#"{"kind":"wide_resnet","depth":28,"width":10,"classes":100}"#,
        ] {
            let network: NetworkSpec = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&network).unwrap(), text);
        }
        let error = serde_json::from_str::<NetworkSpec>(r#"{"kind":"resnet","depth":50,"width":2,"classes":10}"#);
        assert!(error.unwrap_err().to_string().contains("width"));
    }

    #[test]
    fn transformers_are_networks() {
        let parse = |text: &str| serde_json::from_str::<NetworkSpec>(text);
        let vit = r#"{"kind":"vit","image_size":32,"patch_size":4,"width":192,"depth":6,"heads":3,"mlp_width":768,"classes":10}"#;
        assert!(matches!(parse(vit).unwrap(), NetworkSpec::Vit { mlp_width: 768, .. }));
        let clip = r#"{"kind":"clip_image","image_size":224,"patch_size":32,"width":768,"depth":12,"heads":12,"embedding":512,"classes":1000}"#;
        assert!(matches!(parse(clip).unwrap(), NetworkSpec::ClipImage { embedding: 512, .. }));
        let gpt2 = r#"{"kind":"gpt2","vocabulary":50257,"positions":1024,"width":768,"depth":12,"heads":12}"#;
        assert!(matches!(parse(gpt2).unwrap(), NetworkSpec::Gpt2 { positions: 1024, .. }));
        for text in [vit, clip, gpt2] {
            assert_eq!(serde_json::to_string(&parse(text).unwrap()).unwrap(), text);
            let lacking = text.replace(r#","depth":"#, r#","deep":"#);
            assert!(parse(&lacking).unwrap_err().to_string().contains("deep"));
        }
    }
}
